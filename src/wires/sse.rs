//! Server-sent events: bytes in, events out.
//!
//! Owns the framing: line ends of all three kinds, comments, a byte order mark, data of
//! several lines. However the bytes are split, the same events come out. Knows nothing of
//! HTTP, of async, or of what an event means.

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The `event:` field, or empty.
    pub name: String,
    /// The `data:` lines, joined by line feeds.
    pub data: String,
}

/// Takes bytes as they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    /// The last byte was a CR, so that a LF now belongs to it.
    after_cr: bool,
    /// The first line, which may begin with a byte order mark, is behind us.
    begun: bool,
    name: String,
    data: Option<String>,
}

impl Decoder {
    /// Take some bytes; gives the events they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\r' | b'\n' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
        }
        events
    }

    /// The stream is over. The standard would drop an event without a blank line behind
    /// it; servers forget that line, so it is given here.
    pub fn finish(mut self) -> Option<Event> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.dispatch()
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let first = !std::mem::replace(&mut self.begun, true);
        let line = line.strip_prefix('\u{FEFF}').filter(|_| first).unwrap_or(&line);
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match (field, &mut self.data) {
            ("event", _) => value.clone_into(&mut self.name),
            ("data", Some(data)) => data.extend(["\n", value]),
            ("data", none) => *none = Some(value.to_owned()),
            _ => {} // a comment (its field is empty), an id, a retry, or unknown
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        self.data.take().map(|data| Event { name, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
        let mut decoder = Decoder::default();
        let mut events: Vec<_> = pieces.into_iter().flat_map(|piece| decoder.feed(piece)).collect();
        events.extend(decoder.finish());
        events
    }

    #[test]
    fn framing() {
        let cases: [(&str, &[(&str, &str)]); 10] = [
            ("data: a\n\ndata: b\n\n", &[("", "a"), ("", "b")]),
            ("data: a\r\n\r\ndata: b\r\n\r\n", &[("", "a"), ("", "b")]),
            ("data: a\r\rdata: b\r\r", &[("", "a"), ("", "b")]),
            ("event: x\ndata:a\ndata:  b\ndata\n\n", &[("x", "a\n b\n")]),
            ("\u{FEFF}data: a\n\n", &[("", "a")]),
            (": ping\n\n: ping\ndata: a\nid: 7\nretry: 1\n\n", &[("", "a")]),
            ("event: x\n\ndata: a\n\n", &[("", "a")]),
            ("data: a\n\ndata: last", &[("", "a"), ("", "last")]),
            ("data: a\ndata: last\n", &[("", "a\nlast")]),
            ("data: \u{FEFF}é😀\n\n\n\n", &[("", "\u{FEFF}é😀")]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, data)| Event { name: (*name).into(), data: (*data).into() })
                .collect();
            assert_eq!(decode([text.as_bytes()]), expected, "{text:?}");
            split_everywhere(text.as_bytes());
        }
    }

    #[test]
    fn real_streams_split_at_every_byte() {
        for text in [
            include_str!("../../tests/fixtures/wires/stream-anthropic.txt"),
            include_str!("../../tests/fixtures/wires/stream-openai.txt"),
        ] {
            split_everywhere(text.as_bytes());
            split_everywhere(text.replace('\n', "\r\n").as_bytes());
        }
    }

    fn split_everywhere(bytes: &[u8]) {
        let whole = decode([bytes]);
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(decode([head, tail]), whole, "split at {at}");
        }
        assert_eq!(decode(bytes.chunks(1)), whole);
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        assert_eq!(decode([b"data: a\xff\n\n".as_slice()])[0].data, "a\u{FFFD}");
    }
}
