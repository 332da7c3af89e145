"""Apache's own programs, from their Maven jars: the command line tools of several generations of Kafka,
a broker in ZooKeeper mode, and ZooKeeper. Used by tests/clients/stock.

`Tools` runs a generation's tools in one JVM (java/StockTools.java); `Jvm` is a program in a JVM of its
own, in a directory of its own. Nothing is cached here but class paths and the compiled driver.
"""
import hashlib
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
TOOLS_POM = HERE.parent / "oracle/tools-pom/pom.xml"

_loader = importlib.machinery.SourceFileLoader("clients_run", str(HERE / "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("clients_run", _loader))
_loader.exec_module(run)
Failed, Skipped = run.Failed, run.Skipped

# Scala is what the jar's name says; 0.10.2 and 1.1 with 2.12 would not start on a JVM of today.
SCALA = {"0.10.2.2": "2.11", "1.1.1": "2.11"}
# As small as the tools can do with: several of these run at a time.
JVM = ["java", "-Xshare:auto", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
       f"-Dlog4j.configuration=file:{HERE}/java/log4j.properties", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
DRIVEN = ["-Djava.security.manager=allow", "--add-opens", "java.base/java.lang=ALL-UNNAMED"]
COMMAND_SECONDS = 120
READY_SECONDS = 90


@run.once
def java():
    """Java is there, and one that can run several commands in a JVM."""
    run.need("java", "apt-get install openjdk-17-jdk-headless")
    run.need("javac", "apt-get install openjdk-17-jdk-headless")
    said = subprocess.run(["java", *DRIVEN, "-version"], capture_output=True, text=True)
    if said.returncode != 0:
        raise Skipped(f"this Java has no security manager any more, take 17 or 21: {said.stderr.strip()[:200]}")


_maven = threading.Lock()


@run.once
def class_path(version):
    """The jars of one generation's tools and broker; Maven is asked once per version."""
    java()
    file = run.CACHE / f"oracle/tools-{version}.classpath"
    if not file.exists():
        run.need("mvn", "apt-get install maven")
        file.parent.mkdir(parents=True, exist_ok=True)
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath"
        fresh = file.with_suffix(f".{os.getpid()}")
        with _maven:  # two Mavens at a time damage the local repository
            run.prepare(["mvn", "-q", "-B", "-f", str(TOOLS_POM), f"-Dkafka.version={version}",
                         f"-Dscala.version={SCALA.get(version, '2.13')}", goal, f"-Dmdep.outputFile={fresh}"],
                        f"Apache Kafka {version}")
        fresh.rename(file)
    jars = file.read_text().strip().split(":")
    if any("slf4j-log4j12" in jar or "slf4j-reload4j" in jar for jar in jars):
        jars = [jar for jar in jars if "slf4j-simple" not in jar]
    return ":".join(jars)


@run.once
def driver():
    source = HERE / "java/StockTools.java"
    mark = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    home = run.CACHE / f"stock-tools-{mark}"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        run.prepare(["javac", "-Xlint:-removal", "-d", str(home), str(source)], "StockTools")
        (home / "ready").touch()
    return home


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, command, code, output, errors):
        self.command, self.code, self.output, self.errors = command, code, output, errors

    @property
    def lines(self):
        return self.output.splitlines()

    def __str__(self):
        return f"{self.command}\nexit code {self.code}\n{self.output[-3000:]}\n{self.errors[-3000:]}"


def _first(version, new, old):
    return new if int(version.split(".")[0]) >= 3 else old


def class_of(tool, version):
    """The class behind bin/TOOL.sh of that generation."""
    major = int(version.split(".")[0])
    return {
        "kafka-topics": _first(version, "org.apache.kafka.tools.TopicCommand", "kafka.admin.TopicCommand"),
        "kafka-configs": "kafka.admin.ConfigCommand",
        "kafka-console-producer": f"{'org.apache.' if major >= 4 else ''}kafka.tools.ConsoleProducer",
        "kafka-console-consumer": _first(version, "org.apache.kafka.tools.consumer.ConsoleConsumer",
                                         "kafka.tools.ConsoleConsumer"),
        "kafka-consumer-groups": _first(version, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
                                        "kafka.admin.ConsumerGroupCommand"),
        "kafka-get-offsets": _first(version, "org.apache.kafka.tools.GetOffsetShell", "kafka.tools.GetOffsetShell"),
        "kafka-delete-records": _first(version, "org.apache.kafka.tools.DeleteRecordsCommand",
                                       "kafka.admin.DeleteRecordsCommand"),
        "kafka-log-dirs": _first(version, "org.apache.kafka.tools.LogDirsCommand", "kafka.admin.LogDirsCommand"),
        "kafka-broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand" if major >= 4
                                     else "kafka.admin.BrokerApiVersionsCommand",
        "kafka-dump-log": "org.apache.kafka.tools.DumpLogSegments" if major >= 4 else "kafka.tools.DumpLogSegments",
        "kafka-leader-election": _first(version, "org.apache.kafka.tools.LeaderElectionCommand",
                                        "kafka.admin.LeaderElectionCommand"),
        "kafka-preferred-replica-election": "kafka.admin.PreferredReplicaLeaderElectionCommand",
        "kafka-reassign-partitions": _first(version, "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
                                            "kafka.admin.ReassignPartitionsCommand"),
        "kafka-cluster": "org.apache.kafka.tools.ClusterTool",
        "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
        "kafka-consumer-perf-test": _first(version, "org.apache.kafka.tools.ConsumerPerformance",
                                           "kafka.tools.ConsumerPerformance"),
        "kafka-verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
        "kafka-verifiable-consumer": "org.apache.kafka.tools.VerifiableConsumer",
        "zookeeper-shell": "org.apache.zookeeper.ZooKeeperMainWithTlsSupportForKafka" if major >= 2
                           else "org.apache.zookeeper.ZooKeeperMain",
    }[tool]


class Tools:
    """The tools of one generation, one command at a time, in one JVM that starts with the first."""

    def __init__(self, version):
        self.version, self.home, self.process = version, None, None
        self.lock = threading.Lock()

    def start(self):
        command = [*JVM, *DRIVEN, "-cp", f"{driver()}:{class_path(self.version)}", "StockTools"]
        self.home = pathlib.Path(tempfile.mkdtemp(prefix=f"ringlog-stock-{self.version}-"))
        with open(self.home / "jvm", "w") as said:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
                                            text=True)

    def run(self, tool, *words, stdin=""):
        words = [str(word) for word in words]
        command = f"{self.version} {tool} {' '.join(words)}"
        with self.lock:
            if self.process is None:
                self.start()
            (self.home / "stdin").write_text(stdin)
            self.process.stdin.write("\t".join([str(self.home), class_of(tool, self.version), *words]) + "\n")
            self.process.stdin.flush()
            answered, _, _ = select.select([self.process.stdout], [], [], COMMAND_SECONDS)
            code = self.process.stdout.readline().strip() if answered else "none"
            texts = [(self.home / name).read_text(errors="replace") for name in ("stdout", "stderr")]
            if not code.lstrip("-").isdigit():
                self.give_up(f"no end after {COMMAND_SECONDS} s" if answered == [] else "its JVM died", command, texts)
        return Said(command, int(code), *texts)

    def spawn(self, tool, *words):
        """Runs it in a JVM of its own, until somebody ends it."""
        command = [*JVM, "-cp", class_path(self.version), class_of(tool, self.version), *map(str, words)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def give_up(self, what, command, texts):
        """The threads of a command that hangs are printed by the JVM before it goes."""
        self.process.send_signal(signal.SIGQUIT)
        time.sleep(0.5)  # the dump has no end to wait for
        self.process.kill()
        dump = self.process.communicate()[0]
        self.process = None
        raise Failed(f"{what}: {command}\n{texts[0][-1500:]}\n{texts[1][-1500:]}\n{dump[-6000:]}")

    def expect(self, tool, *words, stdin="", code=0):
        """Runs it; another exit code is a failure."""
        said = self.run(tool, *words, stdin=stdin)
        if said.code != code:
            raise Failed(f"expected exit code {code}: {said}")
        return said

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        if self.home is not None:
            shutil.rmtree(self.home, ignore_errors=True)


class Jvm:
    """A server of Apache's in a JVM of its own; `ready` tells whether it serves."""

    def __init__(self, home, name, arguments, ready, heap="-Xmx384m", jars=None):
        self.log_file, self.ready, self.process = pathlib.Path(home) / f"{name}.log", ready, None
        self.starts = 0
        level = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=info", f"-Dlog4j.configuration=file:{self.log_level(home)}",
                 "-Dzookeeper.admin.enableServer=false", "-Dzookeeper.4lw.commands.whitelist=*"]
        self.command = [*JVM, heap, *level, "-cp", jars or class_path("3.9.1"), *arguments]

    @staticmethod
    def log_level(home):
        file = pathlib.Path(home) / "log4j.properties"
        text = (HERE / "java/log4j.properties").read_text()
        file.write_text(text.replace("rootLogger=WARN", "rootLogger=INFO"))
        return file

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self, wait=True):
        self.starts += 1
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            self.wait()

    def wait(self):
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready(self):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.command[-2:]} is not ready (exit code {self.process.poll()})\n{self.report()}")
            time.sleep(0.05)  # the poll's pause

    def report(self):
        return "\n  ".join([str(self.log_file), *self.log().splitlines()[-40:]])

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def mode(port):
    """leader, follower or standalone; None if the server does not answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"srvr")
            said = connection.makefile("rb").read().decode()
    except OSError:
        return None
    found = re.search(r"Mode: (\w+)", said)
    return found and found.group(1)


# Of Debian's `zookeeper`, what a server needs at run time, and the jars in them.
DEBIAN = ["libzookeeper-java", "libslf4j-java", "libnetty-java", "libjctools-java", "libsnappy-java",
          "libdropwizard-metrics-java", "libcommons-cli-java"]
DEBIAN_JARS = ["zookeeper", "zookeeper-jute", "slf4j-api", "slf4j-simple", "netty-all", "netty-common", "netty-buffer",
               "netty-handler", "netty-transport", "netty-codec", "netty-resolver", "jctools-core", "snappy-java",
               "metrics-core", "commons-cli"]


@run.once
def debian_zookeeper():
    """The class path of Debian's ZooKeeper 3.8, unpacked into the cache."""
    java()
    run.need("apt-get", "this is not Debian")
    home = run.CACHE / "debian-zookeeper"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        run.prepare(["apt-get", "download", *DEBIAN], "Debian's ZooKeeper", cwd=home)
        for package in home.glob("*.deb"):
            run.prepare(["dpkg", "-x", str(package), str(home)], package.name)
        (home / "ready").touch()
    return ":".join(str(home / f"usr/share/java/{jar}.jar") for jar in DEBIAN_JARS)


def zookeepers(home, count, jars=None):
    """Apache ZooKeeper, of Kafka 3.9.1's distribution (3.8.4) or of other jars: one, or an ensemble. Started."""
    ports = [(free_port(), free_port(), free_port()) for _ in range(count)]
    servers = []
    for index, (client, _, _) in enumerate(ports):
        data = pathlib.Path(home) / f"zookeeper-{index + 1}"
        data.mkdir(parents=True)
        (data / "myid").write_text(str(index + 1))
        lines = ["tickTime=500", "initLimit=20", "syncLimit=10", f"dataDir={data}", f"clientPort={client}",
                 "clientPortAddress=127.0.0.1", "admin.enableServer=false"]
        if count > 1:
            lines += [f"server.{i + 1}=127.0.0.1:{peer}:{vote}" for i, (_, peer, vote) in enumerate(ports)]
        (data / "zoo.cfg").write_text("\n".join(lines) + "\n")
        servers.append(Jvm(data, "server", ["org.apache.zookeeper.server.quorum.QuorumPeerMain", str(data / "zoo.cfg")],
                           lambda server, port=client: mode(port) is not None, "-Xmx128m", jars))
    try:
        for server in servers:
            server.start(wait=False)
        for server in servers:
            server.wait()
    except Failed:
        for server in servers:
            server.kill()
        raise
    return servers, [client for client, _, _ in ports]


def kafka_on_zookeeper(home, connect, broker_id):
    """A broker of Apache Kafka 3.9.1 in ZooKeeper mode, and its address. Not started."""
    home, bootstrap = pathlib.Path(home), f"127.0.0.1:{free_port()}"
    (home / "server.properties").write_text("\n".join([
        f"broker.id={broker_id}", f"listeners=PLAINTEXT://{bootstrap}", f"zookeeper.connect={connect}",
        f"log.dirs={home}/apache-logs", "offsets.topic.replication.factor=1", "group.initial.rebalance.delay.ms=0",
        "zookeeper.session.timeout.ms=6000", ""]))
    arguments = ["kafka.Kafka", str(home / "server.properties")]
    ready = lambda broker: broker.log().count("started (kafka.server.KafkaServer)") == broker.starts
    return Jvm(home, "apache", arguments, ready), bootstrap


class Oracle:
    """Apache Kafka 3.9.1 in ZooKeeper mode, as Ringlog is: what the controller says differs in KRaft mode."""

    def __init__(self, broker_id):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="ringlog-stock-oracle-"))
        self.logs = self.home / "apache-logs"
        self.processes = []
        try:
            servers, ports = zookeepers(self.home, 1)
            self.processes += servers
            self.zookeeper = f"127.0.0.1:{ports[0]}"
            self.broker, self.bootstrap = kafka_on_zookeeper(self.home, self.zookeeper, broker_id)
            self.processes.append(self.broker)
            self.broker.start()
        except Exception:
            self.stop()
            raise

    def terminate(self):
        self.broker.process.terminate()
        self.broker.process.wait(timeout=READY_SECONDS)

    def stop(self):
        for server in self.processes:
            server.kill()
        shutil.rmtree(self.home, ignore_errors=True)
