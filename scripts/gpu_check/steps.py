"""How fast training steps are, in turns with PyTorch."""

import statistics
from dataclasses import dataclass, field

from gpus import query

from . import goals
from .commands import MOST_SECONDS, MOST_SECONDS_TO_COMPILE, OUT_OF_TIME
from .goals import COMPILED, EAGER, LAST, Measured
from .machine import PEERS

OURS = "ours"
# The steps of a turn are as many as its time allows, between these.
MOST_STEPS, LEAST_STEPS = 200, 10
# After as many, libraries have searched and compiled.
READY_STEPS = 2
# For four timed steps one that is not.
WARMUP_SHARE = 4


@dataclass
class Contest:
    """What was measured in one case, turn by turn: each contender's img/s; and what kept one from it."""

    turns: list = field(default_factory=list)
    problems: dict = field(default_factory=dict)

    def names(self):
        known = {name for found in [*self.turns, self.problems] for name in found}
        return [name for name in [OURS, EAGER, LAST, COMPILED] if name in known]

    def rate(self, name):
        """The median over the turns, or None."""
        rates = [turn[name] for turn in self.turns if name in turn]
        return statistics.median(rates) if rates else None

    def lead(self, name):
        """The median of ours over another's rate in the same turn, or None."""
        leads = [turn[OURS] / turn[name] for turn in self.turns if turn.keys() >= {OURS, name}]
        return statistics.median(leads) if leads else None

    def shown(self, name):
        rate, problem = self.rate(name), self.problems.get(name)
        if rate is None:
            return f"{name} {problem}"
        return f"{name} {rate:.0f} img/s" + (f", then {problem}" if problem else "")

    def has_failed(self):
        """Whether ours has. Time that ran out is no failure."""
        return not self.problems.get(OURS, OUT_OF_TIME).startswith(OUT_OF_TIME)


def cases(machine):
    """(network, batch, precision), the most telling first."""
    if machine.args.case:
        return machine.args.case
    if machine.rehearsal:
        return [("alexnet-owt", 4, "fp32"), ("alexnet", 4, "tf32")]
    nets = ["alexnet", "alexnet-owt"]
    first = [("alexnet", 512, "bf16"), ("alexnet", 128, "bf16")]
    rest = [(n, b, p) for p in ["bf16", "tf32", "fp32"] for b in [512, 128, 1024] for n in nets]
    return first + [case for case in rest if case not in first]


def blocks(machine):
    """(case, contenders that take turns in it), in the order in which time is spent.

    Compiled steps come last: searching takes four minutes for each, as long as ten cases without it.
    """
    if not machine.torch:
        return [(case, [OURS]) for case in cases(machine)]
    turns = [[OURS, EAGER, LAST], [OURS, COMPILED]]
    return [(case, names) for names in turns for case in cases(machine)]


def contenders(machine):
    """A server by name: programs that stay, as a turn is shorter than their start."""
    servers = {OURS: machine.our_server("gpu-check", "steps")}
    for name in [EAGER, LAST, COMPILED] if machine.torch else []:
        most = MOST_SECONDS_TO_COMPILE if name == COMPILED else MOST_SECONDS
        servers[name] = machine.peer_server(PEERS / "torch_step.py", "--serve", most=most)
    if machine.deadline.seconds_for_one():
        for server in servers.values():
            server.begin()  # all at once: importing torch takes seconds
    return servers


def measure_steps(machine, report):
    contests = {case: Contest() for case in cases(machine)}
    servers = contenders(machine)
    try:
        for case, names in blocks(machine):
            ask = {name: asker(machine, servers[name], name, case) for name in names}
            take_turns(machine, contests[case], case, ask)
            if COMPILED in names:
                servers[COMPILED].end()  # the next case compiles in a process of its own
    finally:
        for server in servers.values():
            server.end()
        report.results["steps"] = [{"case": case, **vars(one)} for case, one in contests.items()]
        for case, contest in contests.items():
            add_row(machine, report, case, contest)


def asker(machine, server, name, case):
    """A function from numbers of untimed and timed steps to an answer."""
    net, batch, precision = case
    flags = ["--arch", net, "--batch", batch, "--precision", precision, "--device", machine.args.device]
    if name != OURS:
        flags += ["--variant", name, "--windows", 1]
    return lambda warmup, steps: server.ask(*flags, "--warmup", warmup, "--steps", steps)


def take_turns(machine, contest, case, ask):
    """Lets each contender get ready, then all take turns over the same number of steps."""
    rates = turn(contest, ask, READY_STEPS, 2 if machine.rehearsal else LEAST_STEPS)
    if not rates:
        return
    _, batch, _ = case
    steps = int(min(rates.values()) * machine.args.seconds / batch)
    steps = 2 if machine.rehearsal else min(max(steps, LEAST_STEPS), MOST_STEPS)
    for _ in range(machine.args.rounds):
        # To and fro: what comes first finds the GPU as the last one left it.
        ask = {name: ask[name] for name in reversed(ask) if name in rates}
        rates = turn(contest, ask, max(steps // WARMUP_SHARE, 1), steps)
        if rates:
            contest.turns.append(rates)


def turn(contest, ask, warmup, steps):
    """img/s by contender, of those that have any; the others' problems are kept."""
    rates = {}
    for name, ask_one in ask.items():
        done = ask_one(warmup, steps)
        if done.problem:
            # Of several the first tells most: later turns may only have come too late.
            contest.problems.setdefault(name, done.problem)
        else:
            rates[name] = done.rate()
    return rates


def add_row(machine, report, case, contest):
    net, batch, precision = case
    what = f"step, {net}, batch {batch}, {precision}"
    value = "; ".join(contest.shown(name) for name in contest.names())
    if contest.has_failed():
        return report.check(what, False, value)
    if not contest.names():
        return report.not_run(what, "broken off before")
    return report.measured(what, value, [] if machine.rehearsal else measured(case, contest))


def measured(case, contest):
    """What there are goals for."""
    found = []
    for name in contest.names():
        if name != OURS and (lead := contest.lead(name)):
            found.append(Measured(lead, f"{lead:.2f} x {name}", goals.of_step(case, name)))
    ours, goal = contest.rate(OURS), goals.of_rate(case)
    if ours and goal and goals.LIMITS_OF in query("name"):
        found.append(Measured(ours, f"{ours:,.0f} img/s", goal))
    return found
