"""What the tests of Apache's programs share: a broker, checks, and the commands that all generations have.

Used by tests/clients/stock and its parts old_tools.py, new_tools.py and servers.py.
"""
import re
import subprocess
import time

import jvm  # beside this file
from jvm import Failed, run

BROKER_ID = 1  # on both sides of a comparison
WAIT_SECONDS = 60
# The console producer gives a broker 1.5 s to answer; on a busy machine it then sends again, and doubles.
PATIENT = ["--request-timeout-ms", 60000]
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
VARYING = [(UUID, "UUID"), (re.compile(r"TopicId: \S+"), "TopicId: ID"), (re.compile(r"\b1[6-9]\d{11}\b"), "TIME"),
           (re.compile(r"(?i)\bcrc: \d+"), "crc: CRC"), (re.compile(r"producerId: \d+"), "producerId: ID"),
           (re.compile(r"\s+"), " ")]


class Broker(run.Ringlog):
    """`ringlog serve`, on a ZooKeeper of its own or on one that is there."""

    def __init__(self, binary, *overrides):
        if any(pair.startswith("zookeeper.connect=") for pair in overrides):
            self.own_zookeeper = ()
        words = [word for pair in (f"broker.id={BROKER_ID}", *overrides) for word in ("--override", pair)]
        super().__init__(binary, words, {})

    @property
    def zookeeper(self):
        lines = (self.home / "port").read_text().splitlines()
        return next(line for line in lines if line.startswith("ZOOKEEPER")).rsplit("/", 1)[1]

    @property
    def logs(self):
        return self.home / "data/logs"


class Service:
    """`ringlog zookeeper`."""

    def __init__(self, binary, home):
        self.log, self.port, self.process = home / "zookeeper.log", jvm.free_port(), None
        self.command = [binary, "zookeeper", "--port", str(self.port), "--data", str(home / "zookeeper")]

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("ringlog zookeeper answers", lambda: jvm.mode(self.port) is not None)


def end(processes):
    for process in processes:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def until(what, holds):
    """Waits for a condition that another process brings about."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Failed(f"after {WAIT_SECONDS} s still not: {what}")
        time.sleep(0.1)  # the poll's pause


def has(said, *texts):
    for text in texts:
        if text not in said.output:
            raise Failed(f"no {text!r} in the output: {said}")
    return said


def same(what, found, expected):
    if found != expected:
        raise Failed(f"{what}: {found!r} instead of {expected!r}")


def produce(tools, bootstrap, topic, *lines):
    where = "--broker-list" if tools.version.startswith(("0.", "1.")) else "--bootstrap-server"
    return tools.expect("kafka-console-producer", where, bootstrap, "--topic", topic, *PATIENT,
                        stdin="".join(f"{line}\n" for line in lines))


def consume(tools, place, topic, count, *words):
    """The lines that the console consumer prints, sorted: partitions come in any order."""
    said = tools.expect("kafka-console-consumer", *place, "--topic", topic, "--max-messages", count,
                        "--timeout-ms", 100000, *words)
    return sorted(said.lines)


def described(said, topic):
    """Rows of kafka-consumer-groups --describe, as words, beginning with the topic."""
    rows = [line.split() for line in said.lines]
    return [row[row.index(topic):] for row in rows if topic in row]


def shell(tools, connect, *lines):
    """In a session that ends: a command as arguments leaves its session to the end of the JVM."""
    return tools.expect("zookeeper-shell", "-server", connect, stdin="\n".join([*lines, "quit", ""]))


def normal(text, side):
    """The lines of a tool's text, sorted, without what differs between two brokers that behave the same."""
    text = text.replace(str(side.logs), "LOGS").replace(side.bootstrap, "HOST:PORT")
    lines = []
    for line in text.splitlines():
        for pattern, name in VARYING:
            line = pattern.sub(name, line)
        lines.append(line.strip())
    return sorted(filter(None, lines))


def difference(ours, our_text, theirs, their_text):
    """The lines that only one of them has; all that was said, if the exit codes differ."""
    shown = [f"{ours.command} (exit code {ours.code}, of Apache {theirs.code})"]
    if isinstance(our_text, list) and isinstance(their_text, list):
        shown += [f"    Ringlog: {line}" for line in our_text if line not in their_text]
        shown += [f"    Apache:  {line}" for line in their_text if line not in our_text]
    else:
        shown += [f"    Ringlog: {our_text}", f"    Apache:  {their_text}"]
    if ours.code != theirs.code:
        shown += [f"    stderr of Ringlog: {ours.errors[-1500:]}", f"    stderr of Apache: {theirs.errors[-1500:]}"]
    return "\n".join(shown)
