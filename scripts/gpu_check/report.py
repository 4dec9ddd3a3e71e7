"""The one table of a check, and everything it was made from."""

import datetime
import json
import shlex
import sys
import time

import turns

from .machine import OUT_OF_TIME, query


class Report:
    """Rows of what was checked or measured, the result and the verdict."""

    def __init__(self):
        self.rows = []
        self.results = {}

    def add(self, what, value, verdict="–"):
        # A cell of the table: one line, without its separator.
        value = " ".join(value.replace("|", "/").split())
        self.rows.append((what, value, verdict))

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
        minutes = (time.monotonic() - machine.begun) / 60
        lines = [
            "# GPU check: a rehearsal without a GPU" if machine.rehearsal else "# GPU check",
            "",
            *(f"- {what}: {value}" for what, value in about.items()),
            f"- took {minutes:.1f} minutes of {machine.args.minutes:g}",
            "",
            "| what | result | verdict |",
            "|---|---|---|",
            *(f"| {what} | {value} | {verdict} |" for what, value, verdict in self.rows),
        ]
        (folder / "report.md").write_text("\n".join(lines) + "\n")
        everything = {"about": about, **self.results}
        (folder / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
        return lines
