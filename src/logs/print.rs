//! A container log as people and programs read it: which lines, and in what form.
//!
//! Pure: takes pieces from the assembler and hands on bytes for stdout and stderr. A line is
//! chosen by its first record, so one that was cut into records is shown whole or not at
//! all. Called by `logs::show`.

use super::display::Piece;
use super::line::Stream;
use super::own_line;
use super::stamp;
use std::time::Duration;

/// The longest line that JSON has in one object, in bytes; of a longer one each part is an object.
pub const LONGEST_LINE: usize = 1 << 20;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// What the container wrote, byte for byte.
    #[default]
    Raw,
    /// Each line after its time and a space.
    Timed,
    /// Each line an object; of our own log, its parts.
    Json,
    /// Not at all: they are only counted.
    Counted,
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The container's, in CRI's format.
    #[default]
    Container,
    /// Ours: every line begins with its time, and goes to stdout.
    Supervisor,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// From this time on, since the epoch.
    pub since: Option<Duration>,
    /// Before this time.
    pub until: Option<Duration>,
    /// This stream only.
    pub stream: Option<Stream>,
    /// Of the lines wanted, this many are left out first.
    pub skip: u64,
}

/// Bytes for stdout and stderr, in order.
pub type Pieces = Vec<(Stream, Vec<u8>)>;

/// One stream's line under way.
#[derive(Debug, Default)]
struct Line {
    open: bool,
    wanted: bool,
    time: Vec<u8>,
    /// For JSON.
    text: Vec<u8>,
}

/// Chooses and writes lines.
#[derive(Debug, Default)]
pub struct Printer {
    selection: Selection,
    form: Form,
    source: Source,
    lines: [Line; 2],
    /// Lines wanted so far.
    pub count: u64,
}

impl Printer {
    /// Of the lines `selection` wants, in `form`.
    pub fn new(selection: Selection, form: Form, source: Source) -> Self {
        Self { selection, form, source, ..Self::default() }
    }

    /// Takes the next piece of a line.
    pub fn take(&mut self, mut piece: Piece<'_>, out: &mut Pieces) {
        if self.source == Source::Supervisor {
            // None of its lines is a record, so they come as what a runtime says beside them.
            let time = piece.bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
            piece = Piece { time, stream: Stream::Stdout, ..piece };
        }
        let at = piece.stream as usize;
        let begins = !std::mem::replace(&mut self.lines[at].open, !piece.bytes.ends_with(b"\n"));
        if begins {
            self.begin(&piece, out);
        }
        let (line, form, source) = (&mut self.lines[at], self.form, self.source);
        if !line.wanted {
            return;
        }
        match form {
            Form::Raw | Form::Timed => push(out, piece.stream, piece.bytes),
            Form::Json => {
                line.text.extend_from_slice(piece.bytes);
                if !line.open || line.text.len() >= LONGEST_LINE {
                    json(source, piece.stream, line, out);
                }
            }
            Form::Counted => {}
        }
    }

    fn begin(&mut self, piece: &Piece<'_>, out: &mut Pieces) {
        let wanted = self.wants(piece);
        let line = &mut self.lines[piece.stream as usize];
        line.wanted = wanted;
        if !wanted {
            return;
        }
        match self.form {
            Form::Timed => push(out, piece.stream, &[piece.time, b" "].concat()),
            Form::Json => piece.time.clone_into(&mut line.time),
            Form::Raw | Form::Counted => {}
        }
    }

    fn wants(&mut self, piece: &Piece<'_>) -> bool {
        let Selection { since, until, stream, skip } = &mut self.selection;
        let time = stamp::since_epoch(piece.time);
        // What is no record has no time: a word of the runtime's, shown unless a time was asked for.
        let late = since.is_none_or(|since| time.is_some_and(|time| time >= since));
        let early = until.is_none_or(|until| time.is_some_and(|time| time < until));
        if !late || !early || stream.is_some_and(|stream| stream != piece.stream) {
            return false;
        }
        self.count += 1;
        let left_out = *skip > 0;
        *skip = skip.saturating_sub(1);
        !left_out
    }

    /// The log has ended: hands on what is still held.
    pub fn finish(&mut self, out: &mut Pieces) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = &mut self.lines[stream as usize];
            if self.form == Form::Json && line.wanted && !line.text.is_empty() {
                json(self.source, stream, line, out);
            }
        }
    }
}

/// Objects go to stdout, whatever stream they tell of.
fn json(source: Source, stream: Stream, line: &mut Line, out: &mut Pieces) {
    let text = std::mem::take(&mut line.text);
    let complete = text.ends_with(b"\n");
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    let shown = String::from_utf8_lossy(text);
    let object = match source {
        Source::Supervisor => own_line::object(&shown),
        Source::Container => serde_json::json!({
            "time": String::from_utf8_lossy(&line.time),
            "stream": match stream { Stream::Stdout => "stdout", Stream::Stderr => "stderr" },
            "text": shown,
            "newline": complete,
            "lossy": shown.as_bytes() != text,
        }),
    };
    push(out, Stream::Stdout, format!("{object}\n").as_bytes());
}

/// Neighbouring pieces of one stream become one write.
fn push(out: &mut Pieces, stream: Stream, bytes: &[u8]) {
    match out.last_mut() {
        Some((last, held)) if *last == stream => held.extend_from_slice(bytes),
        _ => out.push((stream, bytes.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::display::LineAssembler;
    use super::*;

    const LOG: &str = "2026-11-25T10:00:00.5Z stdout F one\n\
        2026-11-25T10:00:01Z stderr P er\n\
        2026-11-25T10:00:01Z stdout P tw\n\
        2026-11-25T10:00:09Z stderr F ror\n\
        2026-11-25T10:00:09Z stdout F o\n\
        2026-11-25T12:00:02+02:00 stdout P three\n";

    fn shown(selection: Selection, form: Form) -> (String, String) {
        let (mut printer, mut assembler, mut out) =
            (Printer::new(selection, form, Source::Container), LineAssembler::default(), Vec::new());
        let mut take = |piece: Piece<'_>| {
            printer.take(piece, &mut out);
            Ok(())
        };
        LOG.as_bytes().chunks(7).for_each(|bytes| assembler.feed(bytes, &mut take).unwrap());
        assembler.finish(&mut take).unwrap();
        printer.finish(&mut out);
        let of = |wanted| {
            let pieces = out.iter().filter(|(stream, _)| *stream == wanted);
            pieces.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect::<String>()
        };
        (of(Stream::Stdout), of(Stream::Stderr))
    }

    fn at(second: u64) -> Option<Duration> {
        stamp::since_epoch(format!("2026-11-25T10:00:{second:02}Z").as_bytes())
    }

    #[test]
    fn lines_are_joined_and_streams_kept_apart() {
        let told = shown(Selection::default(), Form::Raw);
        assert_eq!((told.0.as_str(), told.1.as_str()), ("one\ntwo\nthree", "error\n"));
        let told = shown(Selection::default(), Form::Timed);
        assert_eq!(told.0, "2026-11-25T10:00:00.5Z one\n2026-11-25T10:00:01Z two\n2026-11-25T12:00:02+02:00 three");
        assert_eq!(told.1, "2026-11-25T10:00:01Z error\n");
    }

    #[test]
    fn a_line_is_chosen_by_its_begin() {
        let since = |since, until| Selection { since, until, ..Selection::default() };
        assert_eq!(shown(since(at(1), None), Form::Raw), ("two\nthree".into(), "error\n".into()));
        assert_eq!(shown(since(None, at(1)), Form::Raw), ("one\n".into(), String::new()));
        assert_eq!(shown(since(at(2), at(3)), Form::Raw).0, "three");
        let only = Selection { stream: Some(Stream::Stderr), ..Selection::default() };
        assert_eq!(shown(only, Form::Raw), (String::new(), "error\n".into()));
        let skip = Selection { skip: 2, ..Selection::default() };
        assert_eq!(shown(skip, Form::Raw), ("two\nthree".into(), String::new()));
    }

    #[test]
    fn json_has_one_object_for_each_line() {
        let (out, err) = shown(Selection::default(), Form::Json);
        let objects: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> =
            objects.iter().map(|o| (o["stream"].as_str().unwrap(), o["text"].as_str().unwrap())).collect();
        assert_eq!(told, [("stdout", "one"), ("stderr", "error"), ("stdout", "two"), ("stdout", "three")]);
        assert_eq!((objects[3]["newline"].as_bool(), objects[0]["lossy"].as_bool()), (Some(false), Some(false)));
        assert_eq!((objects[2]["time"].as_str(), err.as_str()), (Some("2026-11-25T10:00:01Z"), ""));
    }
}
