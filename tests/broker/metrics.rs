//! `/metrics`, `/healthz` and `ringlog top`: what they say is what was done.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use ringlog_tests::broker::{Broker, Directory, Options, binary, foreign, refused_start, serve};
use ringlog_tests::call::{create_topic, fetch_all, produce_values};
use ringlog_tests::wire::Client;

pub(crate) fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the port of metrics is open");
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).expect("a socket");
    write!(stream, "{head} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

pub(crate) fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.and_then(|value| value.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

#[test]
fn metrics_count_what_was_produced_and_fetched_and_where_the_time_went() {
    let options = Options::default()
        .argument("--http")
        .argument("127.0.0.1:0");
    let Some(broker) = Broker::own(options.argument("--cores").argument("1")) else {
        return;
    };
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "counted", 2, &[]);
    for _ in 0..5 {
        produce_values(&mut client, "counted", &["a", "b"]);
    }
    assert_eq!(fetch_all(&mut client, "counted", 0).len(), 10);
    let text = ask(broker.http(), "GET /metrics");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let requests = "kafka_network_requestmetrics_requests_total{request=\"Produce\"}";
    assert_eq!(value(&text, requests), 5.0);
    let appended = value(&text, "kafka_server_brokertopicmetrics_messagesin_total");
    assert_eq!(appended, 10.0);
    let bytes_in = value(&text, "kafka_server_brokertopicmetrics_bytesin_total");
    let bytes_out = value(&text, "kafka_server_brokertopicmetrics_bytesout_total");
    assert!(
        bytes_in > 0.0 && bytes_out >= bytes_in,
        "{bytes_in} {bytes_out}"
    );
    let end = "kafka_log_log_logendoffset{topic=\"counted\",partition=\"0\"}";
    assert_eq!(value(&text, end), 10.0);
    // One client that waits for each answer: the parts of a request's time are its whole.
    let sum = |part: &str| {
        let series = format!("kafka_network_requestmetrics_{part}_sum{{request=\"Produce\"}}");
        value(&text, &series)
    };
    let parts = sum("localtimems") + sum("remotetimems");
    assert!((sum("totaltimems") - parts).abs() < 1e-6, "{text}");
    let shard = |name: &str| value(&text, &format!("ringlog_{name}{{shard=\"0\"}}"));
    assert!(shard("journal_groups_total") >= 5.0, "{text}");
    assert!(shard("shard_writes_total") >= 5.0, "{text}");
    assert!(shard("shard_syncs_total") >= 5.0, "{text}");
    assert!(shard("shard_idle_seconds_total") <= shard("shard_uptime_seconds"));
}

#[test]
fn health_other_paths_other_methods_and_garbage() {
    let options = Options::default()
        .argument("--http")
        .argument("127.0.0.1:0");
    let Some(broker) = Broker::own(options) else {
        return;
    };
    let http = broker.http();
    assert!(ask(http, "GET /healthz").ends_with("\r\n\r\nok\n"));
    assert!(ask(http, "GET /").contains("/metrics"));
    assert!(ask(http, "GET /nothing").starts_with("HTTP/1.1 404"));
    assert!(ask(http, "POST /metrics").starts_with("HTTP/1.1 405"));
    let mut stream = TcpStream::connect(http).expect("the port of metrics is open");
    let garbage = vec![0xffu8; 1 << 20];
    // It closes the connection somewhere in there.
    let _ = stream.write_all(&garbage);
    let _ = stream.read_to_end(&mut Vec::new());
    // More idle clients than it has places for do not keep Kafka's clients waiting.
    let _idle: Vec<_> = (0..50).map(|_| TcpStream::connect(http)).collect();
    let mut client = Client::connect(broker.address());
    create_topic(&mut client, "served", 1, &[]);
    assert_eq!(produce_values(&mut client, "served", &["a"]), 0);
}

#[test]
fn top_shows_a_table_and_says_where_it_looked_if_there_is_nothing() {
    let options = Options::default()
        .argument("--http")
        .argument("127.0.0.1:0");
    let Some(broker) = Broker::own(options) else {
        return;
    };
    let top = |address: &str| {
        let mut command = Command::new(binary());
        command.args(["top", address, "-n", "1", "--interval", "0.1"]);
        let output = command.output().expect("ringlog top runs");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let (code, text) = top(&broker.http().to_string());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("SHARD") && text.contains("REQUEST"), "{text}");
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = free.local_addr().expect("bound").to_string();
    drop(free);
    let (code, text) = top(&nobody);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(&nobody) && text.contains("ringlog.http.listen"),
        "{text}"
    );
    // Kafka's port is not it.
    let (code, text) = top(&broker.address().to_string());
    assert_eq!(code, Some(1), "{text}");
}

#[test]
fn a_taken_port_of_metrics_is_told() {
    if foreign().is_some() {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let options = Options::default().argument("--http").argument(&address);
    let home = Directory::new();
    let command = serve("127.0.0.1:0", &home.path().join("data"), &options);
    let (code, text) = refused_start(command);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&address) && text.contains("--http"), "{text}");
}
