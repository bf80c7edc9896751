//! Pictures on the wire: as base64 to models that see, as words to all others.
//!
//! Owns which pictures are shown and what stands in the place of those that are not, and that
//! records of what was sent have no picture's bytes in them. Knows no provider.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::kernel::message::{Image, Message};

/// Bytes of a picture by whose base64 it is found in a body: what is shorter is no picture.
const HEAD: usize = 24;

/// The bytes of a picture that is to be shown.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// What stands in the place of a picture that this model is not shown.
pub fn words(image: &Image, sees: bool) -> String {
    let Image { name, media_type, .. } = image;
    let why = if sees {
        "is no longer shown; read it again to see it"
    } else {
        "is not shown: this model takes no pictures"
    };
    format!("[The picture {name} ({media_type}) {why}.]")
}

/// A body as it is kept: with a hash where a picture's bytes went over the wire.
pub fn recorded<'a>(body: &'a str, messages: &[Message]) -> Cow<'a, str> {
    let images = messages.iter().flat_map(|message| match message {
        Message::User { images, .. } => images.iter().collect(),
        Message::Results(results) => {
            results.iter().flat_map(|result| &result.images).collect::<Vec<_>>()
        }
        Message::Assistant(_) | Message::Note(_) => Vec::new(),
    });
    let (mut kept, mut rest) = (String::new(), body);
    for image in images {
        let Some(bytes) = image.data.as_deref().filter(|bytes| bytes.len() >= HEAD) else {
            continue;
        };
        let (head, length) = (base64(&bytes[..HEAD]), bytes.len().div_ceil(3) * 4);
        // They come in this order, unless a model is shown none.
        if let Some(at) = rest.find(&head)
            && let Some(after) = rest.get(at + length..)
        {
            kept.push_str(&rest[..at]);
            kept.push_str(&format!("[picture {}]", image.hash));
            rest = after;
        }
    }
    if kept.is_empty() { Cow::from(body) } else { Cow::from(kept + rest) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::message::Origin;

    fn image(hash: &str, bytes: &[u8]) -> Image {
        let (hash, data) = (hash.to_owned(), Some(bytes.into()));
        Image { media_type: "image/png".to_owned(), hash, name: "a.png".to_owned(), data }
    }

    #[test]
    fn a_record_has_the_hash_of_each_picture_that_was_sent() {
        let (one, two) = (vec![1; 100], [vec![1; 50], vec![2; 51]].concat());
        let images = vec![image("h1", &one), image("gone", &[3; 99]), image("h2", &two)];
        let message = Message::User { origin: Origin::Owner, text: String::new(), images };
        let body = format!("a{}b{}c", base64(&one), base64(&two));
        let messages = [message];
        assert_eq!(recorded(&body, &messages), "a[picture h1]b[picture h2]c");
        assert_eq!(recorded("nothing", &messages), "nothing");
    }
}
