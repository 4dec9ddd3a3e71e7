"""The one table of a check, and everything it was made from."""

import datetime
import json
import shlex
import sys

import turns
from gpus import query

from .commands import OUT_OF_TIME


class Report:
    """Rows of what was checked or measured, the result and the verdict."""

    def __init__(self):
        self.rows = []
        self.results = {}
        self.num_met, self.missed = 0, []

    def add(self, what, value, verdict="–"):
        # A cell of the table: one line, without its separator.
        value = " ".join(value.replace("|", "/").split())
        self.rows.append((what, value, verdict))

    def add_all(self, other):
        """What another report has found so far."""
        self.rows += other.rows
        self.num_met += other.num_met
        self.missed += other.missed
        seconds = self.results.get("seconds", {}) | other.results.get("seconds", {})
        self.results |= other.results | {"seconds": seconds}

    def check(self, what, passed, value):
        self.add(what, value, "pass" if passed else "FAIL")

    def done(self, what, done, value=None):
        """A check that a command makes: it passed if the command did and there is a value to show.

        One that was never begun has neither passed nor failed; one that had to be stopped has failed.
        """
        if done.problem == OUT_OF_TIME:
            self.add(what, done.problem)
        elif done.problem:
            self.check(what, False, value or done.problem)
        else:
            self.check(what, value is not None, value or f"unreadable: {done.last_line()}")

    def unmeasured(self, what, done):
        """A measurement of ours that a command did not make; time that ran out is no failure."""
        if done.problem and done.problem.startswith(OUT_OF_TIME):
            self.add(what, done.problem)
        else:
            self.done(what, done)

    def measured(self, what, value, measured):
        """A measurement, and how each of its numbers stands to its goal. To miss one is no failure."""
        verdict = []
        for one in measured:
            shown = one.shown
            if one.goal and one.goal.is_met(one.value):
                self.num_met += 1
                shown += f" (met: {one.goal})"
            elif one.goal:
                self.missed.append(f"{what}: {shown} ({one.goal})")
                shown += f" (MISSED: {one.goal})"
            verdict.append(shown)
        self.add(what, value, "; ".join(verdict) or "–")

    def goals(self):
        num_missed = len(self.missed)
        if self.num_met + num_missed == 0:
            return "none was looked at"
        return f"{self.num_met} met, {num_missed} missed"

    def not_run(self, what, why):
        self.add(what, f"not run: {why}")

    def failed(self):
        return any(verdict == "FAIL" for *_, verdict in self.rows)

    def write(self, folder, machine):
        """Writes what there is so far."""
        folder.mkdir(parents=True, exist_ok=True)
        gpus = f"{machine.num_gpus} x {query('name')}" if machine.num_gpus else "none"
        driver = query("driver_version") if machine.num_gpus else ""
        about = {
            "date": datetime.date.today().isoformat(),
            "command": shlex.join(sys.argv),
            "program": machine.version,
            "GPU": gpus,
            "driver": driver or "none",
            "CPU": turns.processor(),
            "peer": f"torch {machine.torch or 'none'}",
            "libtorch": machine.lent,
        }
        deadline = machine.deadline
        lines = [
            "# GPU check: a rehearsal without a GPU" if machine.rehearsal else "# GPU check",
            "",
            *(f"- {what}: {value}" for what, value in about.items()),
            f"- took {deadline.minutes_taken():.1f} minutes of {deadline.minutes:g}",
            f"- goals: {self.goals()}",
            "",
            "| what | result | verdict |",
            "|---|---|---|",
            *(f"| {what} | {value} | {verdict} |" for what, value, verdict in self.rows),
        ]
        (folder / "report.md").write_text("\n".join(lines) + "\n")
        goals = {"met": self.num_met, "missed": self.missed}
        everything = {"about": about, "goals": goals, **self.results}
        (folder / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
        return lines
