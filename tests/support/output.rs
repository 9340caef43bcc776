//! Reads logs in CRI's format, as `ccon logs` does.

/// One record: `<time> <stream> <P|F> <text>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// RFC 3339 with a fraction.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line goes on in the next record of this stream.
    pub partial: bool,
    /// What the container wrote, without its newline.
    pub text: Vec<u8>,
}

/// All records of a log; panics, naming the line, where one is malformed.
#[track_caller]
pub fn records(log: &[u8]) -> Vec<Record> {
    assert!(log.is_empty() || log.ends_with(b"\n"), "the log ends within a record");
    log.split_inclusive(|b| *b == b'\n').map(record).collect()
}

/// What the container wrote to `stream`, put together again.
#[track_caller]
pub fn written(log: &[u8], stream: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records(log).into_iter().filter(|r| r.stream == stream) {
        bytes.extend_from_slice(&record.text);
        if !record.partial {
            bytes.push(b'\n');
        }
    }
    bytes
}

#[track_caller]
fn record(line: &[u8]) -> Record {
    let bad = || panic!("not a CRI log record: {:?}", String::from_utf8_lossy(line));
    let mut parts = line[..line.len() - 1].splitn(4, |b| *b == b' ');
    let mut word = || String::from_utf8_lossy(parts.next().unwrap_or_else(bad)).into_owned();
    let (time, stream, tag) = (word(), word(), word());
    if !(time.contains('T') && matches!(&*stream, "stdout" | "stderr") && matches!(&*tag, "P" | "F")) {
        bad();
    }
    Record { time, stream, partial: tag == "P", text: parts.next().unwrap_or_else(bad).to_vec() }
}
