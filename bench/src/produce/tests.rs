//! The hot path against a broker of a few lines, over both transports: whole, and with each fault.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiVersionsResponse, CreateTopicsResponse, FetchRequest, FetchResponse, ListOffsetsResponse,
    MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use ringlog_engine::record::batch;

use super::*;
use crate::run::{self, Broker};
use crate::transport::{Epoll, Uring, run_epoll, run_uring};
use crate::verify::Violation;

/// What the broker does wrong, with the eleventh batch.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Lose,
    Double,
    Swap,
    Change,
    Refuse,
    Die,
    /// Not before the 300th.
    DieLate,
    /// Reads one request in 2 ms.
    Slow,
}

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    end: i64,
    batches: u64,
    held: Option<Vec<u8>>,
}

impl Log {
    fn append(&mut self, sent: &[u8]) -> i64 {
        let mut stored = sent.to_vec();
        let base_offset = self.end;
        batch::patch(&mut stored, base_offset, 0);
        let header = batch::BatchHeader::parse(&stored).unwrap();
        self.end = header.next_offset();
        self.bytes.extend_from_slice(&stored);
        base_offset
    }

    fn produce(&mut self, sent: &[u8], fault: Fault) -> (i16, i64) {
        self.batches += 1;
        if let Some(held) = self.held.take() {
            let base_offset = self.append(sent);
            self.append(&held);
            return (0, base_offset + 1);
        }
        if self.batches != 11 {
            return (0, self.append(sent));
        }
        match fault {
            Fault::None | Fault::Die | Fault::DieLate | Fault::Slow => (0, self.append(sent)),
            Fault::Lose => (0, self.end),
            Fault::Double => {
                self.append(sent);
                (0, self.append(sent))
            }
            Fault::Swap => {
                self.held = Some(sent.to_vec());
                (0, self.end)
            }
            Fault::Change => {
                let mut changed = sent.to_vec();
                *changed.last_mut().unwrap() ^= 1;
                (0, self.append(&changed))
            }
            Fault::Refuse => (19, -1), // NOT_ENOUGH_REPLICAS
        }
    }
}

/// Serves one partition; connections share the log.
fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = std::sync::Arc::new(std::sync::Mutex::new(Log::default()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, log) = (stream.unwrap(), std::sync::Arc::clone(&log));
            std::thread::spawn(move || connection(stream, &log, fault));
        }
    });
    address
}

fn connection(mut stream: TcpStream, log: &std::sync::Mutex<Log>, fault: Fault) -> Option<()> {
    loop {
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix).ok()?;
        let mut frame = vec![0; i32::from_be_bytes(prefix) as usize];
        stream.read_exact(&mut frame).ok()?;
        if fault == Fault::Slow {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let mut log = log.lock().unwrap();
        let last = match fault {
            Fault::Die => 10,
            Fault::DieLate => 300,
            _ => u64::MAX,
        };
        if log.batches >= last {
            return None; // the stream closes
        }
        let acks_0 = frame[..2] == [0, 0] && frame[25..27] == [0, 0];
        let answer = answer(Bytes::from(frame), &mut log, fault);
        drop(log);
        if acks_0 {
            continue;
        }
        let size = i32::try_from(answer.len()).unwrap();
        let whole = [&size.to_be_bytes()[..], &answer[..]].concat();
        stream.write_all(&whole).ok()?;
    }
}

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str("bench"))
}

fn answer(mut frame: Bytes, log: &mut Log, fault: Fault) -> BytesMut {
    let header = RequestHeader::decode(&mut frame, 1).unwrap();
    let version = header.request_api_version;
    let mut out = BytesMut::new();
    out.extend_from_slice(&header.correlation_id.to_be_bytes());
    match header.request_api_key {
        0 => produce_answer(
            &ProduceRequest::decode(&mut frame, version).unwrap(),
            log,
            fault,
        )
        .encode(&mut out, version),
        1 => fetch_answer(&FetchRequest::decode(&mut frame, version).unwrap(), log)
            .encode(&mut out, version),
        2 => {
            let partition = ListOffsetsPartitionResponse::default().with_offset(log.end);
            let topic = ListOffsetsTopicResponse::default()
                .with_name(name())
                .with_partitions(vec![partition]);
            let response = ListOffsetsResponse::default().with_topics(vec![topic]);
            response.encode(&mut out, version)
        }
        3 => {
            let partition = MetadataResponsePartition::default().with_leader_id(1.into());
            let topic = MetadataResponseTopic::default()
                .with_name(Some(name()))
                .with_partitions(vec![partition]);
            let response = MetadataResponse::default().with_topics(vec![topic]);
            response.encode(&mut out, version)
        }
        18 => {
            let api = |key| ApiVersion::default().with_api_key(key).with_max_version(11);
            let response = ApiVersionsResponse::default().with_api_keys((0..20).map(api).collect());
            response.encode(&mut out, version)
        }
        19 => {
            let topic = CreatableTopicResult::default().with_name(name());
            let response = CreateTopicsResponse::default().with_topics(vec![topic]);
            response.encode(&mut out, version)
        }
        key => panic!("request {key}"),
    }
    .unwrap();
    out
}

fn produce_answer(request: &ProduceRequest, log: &mut Log, fault: Fault) -> ProduceResponse {
    let sent = request.topic_data[0].partition_data[0].records.as_ref();
    let (error_code, base_offset) = log.produce(sent.unwrap(), fault);
    let partition = PartitionProduceResponse::default()
        .with_error_code(error_code)
        .with_base_offset(base_offset);
    let topic = TopicProduceResponse::default()
        .with_name(name())
        .with_partition_responses(vec![partition]);
    ProduceResponse::default().with_responses(vec![topic])
}

fn fetch_answer(request: &FetchRequest, log: &Log) -> FetchResponse {
    let wanted = &request.topics[0].partitions[0];
    let mut position = 0;
    for stored in batch::iterate(&log.bytes) {
        let stored = stored.unwrap();
        if stored.header.next_offset() > wanted.fetch_offset {
            break;
        }
        position += stored.bytes.len();
    }
    let end = log.bytes.len().min(position + 5000); // cuts through a batch
    let partition = PartitionData::default()
        .with_high_watermark(log.end)
        .with_records(Some(Bytes::copy_from_slice(&log.bytes[position..end])));
    let topic = FetchableTopicResponse::default()
        .with_topic(name())
        .with_partitions(vec![partition]);
    FetchResponse::default().with_responses(vec![topic])
}

fn workload() -> Workload {
    Workload {
        connections: 2,
        in_flight: 3,
        record_bytes: 100,
        records_per_batch: 5,
        ..Workload::default()
    }
}

const LIMIT: Limit = Limit {
    duration: None,
    requests: Some(200),
};

async fn load<T: Transport>(fault: Fault, workload: Workload) -> Result<run::Run, Failure> {
    let broker = Broker {
        address: serve(fault),
        pid: Some(std::process::id()),
    };
    let run = run::produce::<T>(broker, &workload, std::time::Duration::ZERO, LIMIT).await;
    run.map_err(|failure| failure.into_parts().0)
}

#[test]
fn a_whole_run_is_valid_over_both_transports() {
    let run = run_epoll(load::<Epoll>(Fault::None, workload()))
        .unwrap()
        .unwrap();
    assert_eq!((run.summary.requests, run.summary.records), (200, 1000));
    assert_eq!(run.summary.verified_records, Some(1000));
    assert!(run.reasons.is_empty());

    let run = match run_uring(load::<Uring>(Fault::None, workload())) {
        Ok(run) => run.unwrap(),
        Err(error) => return eprintln!("not run: {error}"),
    };
    assert_eq!(run.summary.verified_records, Some(1000));
}

#[test]
fn unanswered_batches_are_verified_too() {
    let fire_and_forget = Workload {
        acks: 0,
        ..workload()
    };
    let run = run_epoll(load::<Epoll>(Fault::None, fire_and_forget))
        .unwrap()
        .unwrap();
    assert_eq!(run.summary.verified_records, Some(1000));
    assert_eq!(run.summary.latency.at_us(0.99), None);
    let lines = run.summary.lines().concat();
    assert!(lines.contains("nothing was answered"), "{lines}");
}

#[test]
fn frames_too_large_to_gather_take_turns_as_well() {
    let large = Workload {
        record_bytes: 900,
        ..workload()
    };
    let run = run_epoll(load::<Epoll>(Fault::None, large))
        .unwrap()
        .unwrap();
    assert_eq!(run.summary.verified_records, Some(1000));
}

#[test]
fn a_batch_that_never_comes_whole_is_a_failure() {
    let huge = Workload {
        record_bytes: 3000, // the broker above cuts its answers at 5000 bytes
        ..workload()
    };
    let failure = run_epoll(load::<Epoll>(Fault::None, huge))
        .unwrap()
        .unwrap_err();
    assert!(matches!(failure, Failure::Protocol(_)), "{failure}");
}

#[test]
fn an_open_loop_counts_from_the_intended_times() {
    let paced = Workload {
        pace: crate::schedule::Pace::Open {
            rate: 2000.0,
            arrival: crate::schedule::Arrival::Poisson,
        },
        ..workload()
    };
    let run = run_epoll(load::<Epoll>(Fault::None, paced))
        .unwrap()
        .unwrap();
    assert!(run.summary.open_loop);
    // 200 requests at 2000 a second: 100 ms if the schedule was kept.
    assert!(run.summary.elapsed_s > 0.05, "{}", run.summary.elapsed_s);
    assert_eq!(run.summary.verified_records, Some(1000));
}

#[test]
fn each_fault_of_a_broker_fails_the_run() {
    for fault in [Fault::Lose, Fault::Double, Fault::Swap, Fault::Change] {
        let failure = run_epoll(load::<Epoll>(fault, workload()))
            .unwrap()
            .unwrap_err();
        let Failure::Violation(violation) = failure else {
            panic!("{fault:?}: {failure}");
        };
        match fault {
            Fault::Change => assert!(
                matches!(violation, Violation::Changed { .. }),
                "{violation}"
            ),
            _ => eprintln!("{fault:?}: {violation}"),
        }
    }
}

#[test]
fn each_fault_is_also_found_where_records_are_compared() {
    let built = Workload {
        build: crate::workload::Build::Each,
        ..workload()
    };
    let run = run_epoll(load::<Epoll>(Fault::None, built.clone()));
    assert_eq!(run.unwrap().unwrap().summary.verified_records, Some(1000));
    for fault in [Fault::Lose, Fault::Double, Fault::Swap, Fault::Change] {
        let failure = run_epoll(load::<Epoll>(fault, built.clone())).unwrap();
        let failure = failure.unwrap_err();
        assert!(
            matches!(failure, Failure::Violation(_)),
            "{fault:?}: {failure}"
        );
    }
}

#[test]
fn a_refusing_and_a_dying_broker_fail_the_run() {
    let failure = run_epoll(load::<Epoll>(Fault::Refuse, workload()))
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(failure, Failure::Answer { code: 19, .. }),
        "{failure}"
    );
    let failure = run_epoll(load::<Epoll>(Fault::Die, workload()))
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(failure, Failure::Closed { .. } | Failure::System { .. }),
        "{failure}"
    );
}

#[test]
fn nobody_there_is_a_plain_failure() {
    let broker = Broker {
        address: "127.0.0.1:1".parse().unwrap(),
        pid: None,
    };
    let workload = workload();
    let run = run::produce::<Epoll>(broker, &workload, std::time::Duration::ZERO, LIMIT);
    let failure = run_epoll(run).unwrap().unwrap_err();
    assert!(failure.to_string().contains("127.0.0.1:1"), "{failure}");
}

fn paced(rate: f64) -> crate::schedule::Pace {
    let arrival = crate::schedule::Arrival::Fixed;
    crate::schedule::Pace::Open { rate, arrival }
}

#[test]
fn a_generator_that_was_stopped_is_late_even_if_its_window_is_one() {
    // A stop that falls into a request is a part of that request: who knows when the answer came?
    let mut seen = Vec::new();
    for _ in 0..STOPS {
        let paced = Workload {
            connections: 1,
            in_flight: 1,
            pace: paced(2000.0),
            ..workload()
        };
        let run = run_epoll(async {
            tokio::task::spawn_local(async {
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                // The whole thread, as if it was preempted.
                std::thread::sleep(std::time::Duration::from_millis(200));
            });
            load::<Epoll>(Fault::None, paced).await
        });
        let run = run.unwrap().unwrap();
        let is_told = run.reasons.concat().contains("generator lagged");
        // And not by the first request after it alone: what was due meanwhile is as late.
        let (lag, latency) = (&run.summary.generator_lag, &run.summary.latency);
        if is_told && lag.p50_us() * 2.0 > latency.p50_us() {
            return;
        }
        seen.push((run.reasons, lag.p50_us(), latency.p50_us()));
    }
    panic!("none of {STOPS} stops was taken for the generator's: {seen:?}");
}

/// Tries: that all of them fall into requests is not to be expected.
const STOPS: usize = 5;

/// The broker takes 2 ms for a request, whose bytes fill the socket; all are due at once.
async fn median_lag_share<T: Transport>() -> f64 {
    let large = Workload {
        connections: 1,
        record_bytes: 1 << 20,
        records_per_batch: 1,
        acks: 0,
        verify: false,
        pace: paced(100_000.0),
        ..workload()
    };
    let run = load::<T>(Fault::Slow, large).await.unwrap();
    run.summary.generator_lag.p50_us() / (run.summary.elapsed_s * 1e6)
}

#[test]
fn a_full_socket_is_not_the_generators_lag() {
    let share = run_epoll(median_lag_share::<Epoll>()).unwrap();
    assert!(share < 0.1, "{share}");
    match run_uring(median_lag_share::<Uring>()) {
        Ok(share) => assert!(share < 0.1, "{share}"),
        Err(error) => eprintln!("not run: {error}"),
    }
}

#[test]
fn what_a_failed_run_counted_leaves_the_warm_up_out() {
    let failure = run_epoll(async {
        let broker = Broker {
            address: serve(Fault::DieLate),
            pid: Some(std::process::id()),
        };
        let warm_up = std::time::Duration::from_secs(60); // ends with its 200 requests
        run::produce::<Epoll>(broker, &workload(), warm_up, LIMIT).await
    });
    let (failure, summary) = failure.unwrap().unwrap_err().into_parts();
    let summary = summary.unwrap_or_else(|| panic!("{failure}"));
    assert!(summary.requests <= 100, "{}", summary.requests);
    let batch_bytes = 5 * 100 + 200; // with its headers
    assert!(
        summary.batch_bytes <= summary.requests * batch_bytes,
        "{} bytes in {} requests",
        summary.batch_bytes,
        summary.requests
    );
}

#[test]
fn a_duration_that_no_clock_reaches_is_no_limit() {
    let phase = Phase::begin(Limit {
        duration: Some(std::time::Duration::MAX),
        requests: Some(1),
    });
    assert!(phase.may_send(Instant::now()));
    assert!(!phase.may_send(Instant::now()));
}

#[test]
fn batches_of_many_sizes_are_as_long_as_their_mean() {
    let spread = Workload {
        connections: 1,
        record_bytes: 1000,
        records_per_batch: 1,
        record_bytes_least: Some(1),
        ..workload()
    };
    let bytes = run_epoll(async {
        let address = serve(Fault::None);
        let mut client = Client::connect::<Epoll>(address).await.unwrap();
        let mut producers = Producers::<Epoll>::connect(&mut client, address, &spread)
            .await
            .unwrap();
        let mean = producers.batch_bytes();
        let requests = producers.producers[0].frames.len() as u64;
        let limit = Limit {
            duration: None,
            requests: Some(requests),
        };
        producers.phase(limit).await.unwrap();
        (mean as u64, producers.bytes() / requests)
    });
    let (mean, sent) = bytes.unwrap();
    assert_eq!(mean, sent);
}
