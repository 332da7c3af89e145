//! What both recovery targets share: files of a good directory, and what the input makes of them.

use bytes::Bytes;
use ringlog_engine::io::sim::World;

/// The input, taken byte by byte.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self, below: usize) -> Option<usize> {
        let number = usize::from(self.byte()?) << 8 | usize::from(self.byte()?);
        Some(number % below.max(1))
    }
}

/// Writes `files` into a new world, changed as the input says.
pub fn damaged(files: &[(String, Vec<u8>)], input: &mut Input<'_>) -> World {
    let mut files: Vec<(String, Option<Vec<u8>>)> = files
        .iter()
        .map(|(path, bytes)| (path.clone(), Some(bytes.clone())))
        .collect();
    while change(&mut files, input).is_some() {}
    let world = World::new(1);
    for (path, bytes) in files {
        if let Some(bytes) = bytes {
            let written = world.write_file(path, Bytes::from(bytes));
            written.expect("the world has room");
        }
    }
    world
}

/// One change; `None` at the end of the input.
fn change(files: &mut [(String, Option<Vec<u8>>)], input: &mut Input<'_>) -> Option<()> {
    let at = input.number(files.len())?;
    let what = input.byte()?;
    let other = files[usize::from(what / 8) % files.len()].1.clone();
    let file = &mut files[at].1;
    let Some(bytes) = file else { return Some(()) };
    let position = input.number(bytes.len())?;
    match what % 8 {
        0 => bytes.truncate(position),
        1 => {
            let length = usize::from(input.byte()?) * 16;
            let end = bytes.len().min(position + length);
            bytes[position..end].fill(0);
        }
        2 => *file = None,
        3 => bytes.extend(std::iter::repeat_n(input.byte()?, 1 + position)),
        4 => {
            // A sector or a page of another file, as a misdirected write leaves it.
            let other = other.unwrap_or_default();
            let from = position / 512 * 512;
            let end = bytes.len().min(other.len()).min(from + 4096);
            if from < end {
                bytes[from..end].copy_from_slice(&other[from..end]);
            }
        }
        5 => *file = other,
        _ => {
            let length = usize::from(input.byte()? % 16) + 1;
            for byte in bytes.iter_mut().skip(position).take(length) {
                *byte ^= input.byte()?;
            }
        }
    }
    Some(())
}
