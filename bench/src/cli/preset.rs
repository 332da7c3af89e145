//! `run --preset NAME`: words that stand before the user's own, who may still say otherwise.

/// Name, the words it stands for (the subcommand first), and what it is.
const PRESETS: [(&str, &str, &str); 6] = [
    (
        "tutorial",
        "tutorial",
        "the tutorial's loop: 1000 messages, then a group",
    ),
    (
        "tailing",
        "run --rate 1k --record-bytes 100 --batch-bytes 1 --groups 1 --consumers 1",
        "one consumer behind small messages: end-to-end times",
    ),
    (
        "fan-out",
        "run --rate 1k --record-bytes 1KiB --batch-bytes 1 --groups 8 --consumers 1",
        "eight groups that read the same",
    ),
    (
        "catch-up",
        "run --catch-up hot --fill 256MiB --partitions 4 --consumers 4",
        "a group reads what is there, from the page cache",
    ),
    (
        "catch-up-cold",
        "run --catch-up cold --fill 256MiB --partitions 4 --consumers 4",
        "the same from the device",
    ),
    (
        "many-partitions",
        "run --rate 1k --partitions 1000 --connections 16 --batch-bytes 1 --consumers 4",
        "a thousand partitions",
    ),
];

/// Puts the words of a preset in the place of `run --preset NAME`; `run` may be left out.
///
/// # Errors
/// A line that lists them, if there is no such preset.
pub(crate) fn expand(words: Vec<String>) -> Result<Vec<String>, String> {
    let is_flag = |word: &String| word == "--preset" || word.starts_with("--preset=");
    let Some(at) = words.iter().position(is_flag) else {
        return Ok(words);
    };
    let (name, taken) = match words[at].split_once('=') {
        Some((_, name)) => (name.to_owned(), 1),
        None => (words.get(at + 1).cloned().unwrap_or_default(), 2),
    };
    let Some((_, preset, _)) = PRESETS.iter().find(|(known, ..)| *known == name) else {
        let known = PRESETS.map(|(name, _, what)| format!("  {name:<16} {what}"));
        return Err(format!(
            "no preset {name:?}; there are\n{}",
            known.join("\n")
        ));
    };
    let mut rest = words;
    rest.drain(at..(at + taken).min(rest.len()));
    // What comes before the subcommand is the program and its global flags.
    let run = rest.iter().position(|word| word == "run");
    let before = match run {
        Some(run) => {
            rest.remove(run);
            run
        }
        None => at,
    };
    rest.splice(before..before, preset.split(' ').map(str::to_owned));
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(words: &str) -> Result<String, String> {
        expand(words.split(' ').map(str::to_owned).collect()).map(|words| words.join(" "))
    }

    #[test]
    fn a_preset_stands_before_what_is_said_besides() {
        let same = Ok("b --io epoll tutorial --scale 10".to_owned());
        assert_eq!(
            expanded("b --io epoll run --preset tutorial --scale 10"),
            same
        );
        assert_eq!(expanded("b --io epoll --preset=tutorial --scale 10"), same);
        assert_eq!(
            expanded("b --io epoll run --scale 10 --preset tutorial"),
            Ok("b --io epoll tutorial --scale 10".to_owned())
        );
        assert_eq!(
            expanded("b produce --rate 5"),
            Ok("b produce --rate 5".to_owned())
        );
        assert!(
            expanded("b run --preset nothing")
                .unwrap_err()
                .contains("fan-out")
        );
        assert!(expanded("b run --preset").is_err());
    }
}
