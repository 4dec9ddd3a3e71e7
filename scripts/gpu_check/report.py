"""The one table of a check, and everything it was made from."""

import json
import time

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
        folder.mkdir(parents=True, exist_ok=True)
        gpus = f"{machine.num_gpus} x {query('name')}" if machine.num_gpus else "none"
        lines = [
            "# GPU check: a rehearsal without a GPU" if machine.rehearsal else "# GPU check",
            "",
            f"- GPU: {gpus}; peer: torch {machine.torch or 'none'}; libtorch: {machine.lent}",
            f"- took {(time.monotonic() - machine.begun) / 60:.1f} minutes of {machine.args.minutes:g}",
            "",
            "| what | result | verdict |",
            "|---|---|---|",
            *(f"| {what} | {value} | {verdict} |" for what, value, verdict in self.rows),
        ]
        (folder / "report.md").write_text("\n".join(lines) + "\n")
        (folder / "results.json").write_text(json.dumps(self.results, indent=1) + "\n")
        print("\n".join(lines))
        print(f"wrote {folder / 'report.md'} and {folder / 'results.json'}")
