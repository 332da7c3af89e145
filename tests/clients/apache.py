"""Brokers of Apache Kafka 2.8, 3.9 (ZooKeeper) and 4 (KRaft) with a log directory of their own, and the program
that fills a broker and tells what it holds (java/Directories.java).

Used by tests/clients/directories and tests/storage/golden/make. ZooKeeper is Ringlog's service.
"""
import hashlib
import json
import pathlib
import select
import shutil
import subprocess
import tempfile

import jvm  # beside this file
from jvm import Failed, run
from scene import BROKER_ID, Service, end, until

ANSWER_SECONDS = 240
# A clean stop of Kafka has this file; it goes at the next start.
CLEAN = ".kafka_cleanshutdown"
SETTINGS = [
    "offsets.topic.replication.factor=1", "offsets.topic.num.partitions=4", "group.initial.rebalance.delay.ms=0",
    "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1",
    "transaction.state.log.num.partitions=4", "log.cleaner.backoff.ms=100", "log.cleaner.dedupe.buffer.size=4194304",
    "log.cleaner.io.buffer.size=65536",
    "auto.create.topics.enable=false", "log.index.size.max.bytes=122880"]
COMPACTED = ("compacted", "compacted-1", "compacted-transactional")


class Driver:
    """java/Directories.java with the clients of one version."""

    def __init__(self, version):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix=f"ringlog-directories-{version}-"))
        command = [*jvm.JVM, "-cp", f"{compiled()}:{jvm.class_path(version)}", "Directories"]
        with open(self.home / "jvm", "w") as said:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
                                            text=True)

    def tell(self, command, bootstrap, *words):
        self.process.stdin.write("\t".join([command, bootstrap, *map(str, words)]) + "\n")
        self.process.stdin.flush()
        answered, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
        answer = self.process.stdout.readline().strip() if answered else f"no answer within {ANSWER_SECONDS} s"
        if answer != "ok":
            raise Failed(f"{command} {' '.join(map(str, words))} at {bootstrap}: {answer}\n"
                         f"{(self.home / 'jvm').read_text(errors='replace')[-3000:]}")

    def ask(self, command, bootstrap):
        file = self.home / "answer.json"
        self.tell(command, bootstrap, file)
        return json.loads(file.read_text())

    def dump(self, bootstrap):
        return self.ask("dump", bootstrap)

    def stop(self):
        end([self.process])
        shutil.rmtree(self.home, ignore_errors=True)


@run.once
def compiled():
    """Against the oldest clients, which the later ones can do."""
    source = jvm.HERE / "java/Directories.java"
    mark = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    home = run.CACHE / f"directories-{mark}"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        run.prepare(["javac", "-cp", jvm.class_path("2.8.2"), "-d", str(home), str(source)], "Directories")
        (home / "ready").touch()
    return home


def settled(logs, topics=COMPACTED):
    """Waits until all but the newest segments of the compacted topics are clean."""
    def is_clean(partition):
        newest = max(int(file.stem) for file in partition.glob("*.log"))
        return lines_of(logs / "cleaner-offset-checkpoint").get(partition.name) == newest

    def is_settled():
        return all(is_clean(partition) for topic in topics for partition in logs.glob(f"{topic}-[0-9]"))
    until(f"compacted: {logs}", is_settled)


def lines_of(checkpoint):
    """`topic-partition` to offset, of one of Kafka's checkpoint files."""
    lines = checkpoint.read_text().splitlines()[2:] if checkpoint.exists() else []
    rows = [line.rsplit(" ", 2) for line in lines]
    return {f"{topic}-{partition}": int(offset) for topic, partition, offset in rows}


class Kafka:
    """A broker of Apache Kafka; up to 3.9 with Ringlog's ZooKeeper service, unless it gets a `connect`."""

    def __init__(self, binary, version, home, logs=None, connect=None):
        self.version, self.home, self.binary = version, pathlib.Path(home), binary
        self.logs = pathlib.Path(logs or self.home / "apache-logs")
        self.bootstrap = f"127.0.0.1:{jvm.free_port()}"
        self.is_kraft = int(version.split(".")[0]) >= 4
        self.service = None if self.is_kraft or connect else Service(binary, self.home)
        lines = [*SETTINGS, f"log.dirs={self.logs}"]
        if self.is_kraft:
            controller = f"127.0.0.1:{jvm.free_port()}"
            lines += ["process.roles=broker,controller", f"node.id={BROKER_ID}", "controller.listener.names=CONTROLLER",
                      f"controller.quorum.voters={BROKER_ID}@{controller}",
                      "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                      f"listeners=PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}"]
        else:
            lines += [f"broker.id={BROKER_ID}", f"listeners=PLAINTEXT://{self.bootstrap}",
                      f"zookeeper.connect={connect or f'127.0.0.1:{self.service.port}/kafka'}"]
        self.properties = self.home / "server.properties"
        self.properties.write_text("\n".join(lines) + "\n")
        self.jars = jvm.class_path(version)
        told = "Kafka Server started" if self.is_kraft else "started (kafka.server.KafkaServer)"
        self.broker = jvm.Jvm(self.home, "apache", ["kafka.Kafka", str(self.properties)],
                              lambda broker: broker.log().count(told) >= broker.starts, jars=self.jars)

    def start(self):
        if self.service is not None and self.service.process is None:
            self.service.start()
        if self.is_kraft and not self.logs.exists():
            words = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(self.properties)]
            run.run([*jvm.JVM, "-cp", self.jars, *words])
        self.broker.start()

    def stop(self):
        """SIGTERM; it must have been a clean stop."""
        self.broker.process.terminate()
        self.broker.process.wait(timeout=jvm.READY_SECONDS)
        if not (self.logs / CLEAN).exists():
            raise Failed(f"no {CLEAN} after SIGTERM\n{self.broker.report()}")

    def kill(self):
        self.broker.kill()

    def end(self):
        self.broker.kill()
        if self.service is not None:
            end([self.service.process])
