"""Commands that are run against a deadline: to their end, or kept and asked line by line."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

# A command that would have less time is not begun; one that takes longer leaves the others too little.
LEAST_SECONDS = 5
MOST_SECONDS = 150
# Compiling a step on every search there is has taken 255 s on an H100.
MOST_SECONDS_TO_COMPILE = 400

OUT_OF_TIME = "not run: out of time"
RATE = re.compile(r"^([\d.]+) img/s$", re.MULTILINE)


@dataclass
class Done:
    """A command that has ended."""

    output: str
    problem: str | None = None

    def last_json(self):
        """The last line that is a JSON object, or None."""
        return (self.every_json() or [None])[-1]

    def every_json(self):
        """All lines that are JSON objects, of a command that was stopped as well."""
        found = []
        for line in self.output.splitlines():
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def last_line(self):
        """What the command said last: where it failed, why."""
        return last_line(self.output)

    def rate(self):
        """The images a second of the last line that says so, or None."""
        found = RATE.findall(self.output)
        return float(found[-1]) if found else None


def last_line(output):
    return (output.strip().splitlines() or ["no output"])[-1][-240:]


class Deadline:
    """When everything has to be over."""

    def __init__(self, minutes):
        self.begun = time.monotonic()
        self.minutes = minutes

    def minutes_taken(self):
        return (time.monotonic() - self.begun) / 60

    def seconds_for_one(self, most=MOST_SECONDS):
        """How long a command may take that is begun now; 0 if it is not to be begun."""
        left = min(60 * (self.minutes - self.minutes_taken()), most)
        return left if left >= LEAST_SECONDS else 0


class Running:
    """The commands that were begun and whose end nobody has seen yet, of all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.processes = set()
        self.is_over = False

    def begin(self, words, **options):
        with self.lock:
            if self.is_over:
                sys.exit()  # ends the thread alone
            process = subprocess.Popen(words, **options)
            self.processes.add(process)
            return process

    def end_all(self):
        """Ends all commands that still run, and whoever begins another."""
        with self.lock:
            self.is_over = True
        for process in list(self.processes):
            kill(process)


RUNNING = Running()


def begin(words, environment, **pipes):
    """Starts a command in a session of its own, so that whatever it starts can be killed with it."""
    print("$", " ".join(words), flush=True)
    return RUNNING.begin(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=environment, start_new_session=True, **pipes,
    )  # fmt: skip


def kill(process):
    """Ends a command that was begun, and what it has started."""
    RUNNING.processes.discard(process)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def too_late(seconds, most=MOST_SECONDS):
    """What is to be said of a command that was killed after so many seconds."""
    why = "failed: takes too long" if seconds == most else OUT_OF_TIME
    return f"{why} (stopped after {seconds:.0f} s)"


def run(words, environment, deadline):
    """Runs a command to its end, or to its deadline."""
    words = [str(word) for word in words]
    seconds = deadline.seconds_for_one()
    if not seconds:
        return Done("", OUT_OF_TIME)
    try:
        process = begin(words, environment)
    except OSError as error:
        return Done(str(error), f"failed: {error}")
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        output, _ = process.communicate()
        return Done(output, too_late(seconds))
    except BaseException:
        kill(process)  # a Ctrl-C does not reach it
        raise
    RUNNING.processes.discard(process)
    if RUNNING.is_over:
        sys.exit()  # it was killed, which says nothing of it
    if process.returncode:
        print(output[-2000:], flush=True)
        return Done(output, f"failed: {last_line(output)}")
    return Done(output)


class Server:
    """A command that answers each line of its input, and keeps what takes long to make.

    An answer ends with `X img/s` or `failed: WHY`. A server that has failed or died, or was killed because it did
    not answer in time, begins anew with the next line.
    """

    def __init__(self, words, environment, deadline, most=MOST_SECONDS):
        self.words, self.environment, self.deadline = [str(w) for w in words], environment, deadline
        self.most = most
        self.process = None

    def begin(self):
        """Starts the command, if it is not running."""
        if self.process is not None and self.process.poll() is not None:
            self.end()
        if self.process is None:
            self.process = begin(self.words, self.environment, stdin=subprocess.PIPE)
            self.lines = queue.SimpleQueue()
            threading.Thread(target=read, args=[self.process, self.lines], daemon=True).start()

    def ask(self, *words):
        """What it answers to a line of these words."""
        seconds = self.deadline.seconds_for_one(self.most)
        if not seconds:
            return Done("", OUT_OF_TIME)
        line = " ".join(str(word) for word in words)
        print("<", line, flush=True)
        try:
            self.begin()
            print(line, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it has died, and its last words say of what
        except OSError as error:
            return Done(str(error), f"failed: {error}")
        done = self.answer(seconds)
        if not done.rate():
            print(done.output[-2000:], flush=True)
        return done

    def answer(self, seconds):
        output, until = "", time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(until - time.monotonic(), 0))
            except queue.Empty:
                self.end()
                return Done(output, too_late(seconds, self.most))
            if line is None:
                self.end()
                return Done(output, f"failed: {last_line(output)}")
            output += line
            if line.startswith("failed: "):
                self.end()  # an error of CUDA's would stay for good, and so would memory
                return Done(output, last_line(output))
            if RATE.match(line):
                return Done(output)

    def end(self):
        """Ends the command, if it is running."""
        if self.process is not None:
            kill(self.process)
            self.process.wait()
            self.process = None


def read(process, lines):
    """Puts the lines of a process into a queue, and None behind the last."""
    for line in process.stdout:
        lines.put(line)
    lines.put(None)
