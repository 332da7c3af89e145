//! Tests of the command line: what reaches `serve`, and the exit codes.

use super::*;
use std::cell::RefCell;

thread_local! {
    static SERVED: RefCell<Option<BrokerConfig>> = const { RefCell::new(None) };
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of serve")]
fn keep(config: BrokerConfig) -> Result<(), ServeError> {
    SERVED.with(|served| served.replace(Some(config)));
    Ok(())
}

fn refuse(_config: BrokerConfig) -> Result<(), ServeError> {
    Err(ServeError::from("not in this test".to_owned()))
}

fn exit(args: &[&str]) -> Exit {
    let args = std::iter::once("ringlog").chain(args.iter().copied());
    run_with(args.map(OsString::from), Vec::new(), keep)
}

fn served(args: &[&str]) -> BrokerConfig {
    assert_eq!(exit(args), Exit::Ok, "{args:?}");
    SERVED.with(RefCell::take).expect("served")
}

#[test]
fn command_line_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn no_arguments_serve_with_the_defaults_for_development() {
    let config = served(&[]);
    assert_eq!(config.log_dirs, [PathBuf::from("./data/logs")]);
    assert_eq!(
        config.listeners[0].bind.to_string(),
        "PLAINTEXT://127.0.0.1:9092"
    );
}

#[test]
fn flags_work_with_and_without_the_word_serve() {
    let flags = [
        "--listen",
        "0",
        "--data-dir",
        "/d",
        "--cores",
        "1",
        "--io",
        "poll",
        "--durability",
        "page-cache",
        "--override",
        "num.partitions=5",
        "--port-file",
        "/p",
        "--open-files-max",
        "99",
    ];
    for config in [served(&flags), served(&[&["serve"], &flags[..]].concat())] {
        assert_eq!(config.listeners[0].bind.port, 0);
        assert_eq!(config.log_dirs, [PathBuf::from("/d/logs")]);
        assert_eq!(
            (config.ringlog.cores, config.ringlog.open_files_max),
            (1, 99)
        );
        assert_eq!(config.ringlog.io, crate::config::IoMode::Poll);
        assert_eq!(
            config.ringlog.durability,
            crate::config::Durability::PageCache
        );
        assert_eq!(config.num_partitions, 5);
        assert_eq!(config.port_file, Some(PathBuf::from("/p")));
    }
}

#[test]
fn kafkas_own_order_of_arguments_works() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/server.properties");
    let config = served(&[
        "serve",
        file,
        "--override",
        "broker.id=9",
        "--override",
        "log.dirs=/x",
    ]);
    assert_eq!(
        (config.node_id, config.log_dirs),
        (9, vec![PathBuf::from("/x")])
    );
}

#[test]
fn exit_codes_are_zero_and_one() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/server.properties");
    assert_eq!(exit(&["--version"]), Exit::Ok);
    assert_eq!(exit(&["serve", "--help"]), Exit::Ok);
    assert_eq!(exit(&["--no-such-flag"]), Exit::Failure);
    assert_eq!(exit(&["no-such-command"]), Exit::Failure);
    assert_eq!(exit(&["serve", "--cores", "many"]), Exit::Failure);
    assert_eq!(exit(&["serve", "/no/such/file"]), Exit::Failure);
    assert_eq!(exit(&["config", "explain", "log.segment.bytes"]), Exit::Ok);
    assert_eq!(exit(&["config", "explain", "segment.bytes"]), Exit::Ok);
    assert_eq!(exit(&["config", "explain", "segment.byte"]), Exit::Failure);
    assert_eq!(exit(&["config", "check", file]), Exit::Ok);
    assert_eq!(exit(&["config", "check", "/no/such/file"]), Exit::Failure);
    let args = ["ringlog"].map(OsString::from);
    assert_eq!(
        run_with(args.into_iter(), Vec::new(), refuse),
        Exit::Failure
    );
    let level = vec![(logging::LEVEL_ENV.to_owned(), "loud".to_owned())];
    let args = ["ringlog"].map(OsString::from);
    assert_eq!(run_with(args.into_iter(), level, keep), Exit::Failure);
    assert_eq!((Exit::Ok as u8, Exit::Failure as u8), (0, 1));
}
