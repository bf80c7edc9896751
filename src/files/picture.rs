//! Pictures as models take them: which bytes are one, how large it is, and whether it fits.
//!
//! Owns the kinds that providers agree on, told by their first bytes and never by a name, and
//! the limits that hold for all of them. Reads headers alone and decodes nothing: what is
//! wrong further in, the provider says. Knows no model.

use std::fmt::Display;
use std::sync::Arc;

use anyhow::{Result, ensure};
use git2::{ObjectType, Oid};

use crate::kernel::message::Image;

/// Bytes a picture may have: as base64 it takes a third more, and 5 MB of that are taken.
pub const LIMIT: usize = 3_750_000;
/// Pixels that a side may have.
const SIDE: u32 = 8_000;

/// What these bytes are the beginning of, where that is a picture that models take.
pub fn media_type(start: &[u8]) -> Option<&'static str> {
    match start {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// A whole picture, with a line that says what it is. An error says what to do instead.
pub fn picture(shown: &impl Display, name: &str, bytes: Vec<u8>) -> Result<(Image, String)> {
    let media_type = media_type(&bytes).unwrap_or_default();
    let size = bytes.len();
    ensure!(size <= LIMIT, too_large(shown, size as u64));
    let (width, height) = sides(media_type, &bytes).unwrap_or_default();
    ensure!(
        width > 0 && height > 0,
        "{shown} begins like a picture ({media_type}) and holds none; it may be cut off: look at it with `file {shown}`"
    );
    ensure!(
        width.max(height) <= SIDE,
        "{shown} is a picture of {width}×{height} pixels, and {SIDE} a side are the most; {SMALLER}"
    );
    let hash = Oid::hash_object(ObjectType::Blob, &bytes)?.to_string();
    let line = format!("[picture {name}: {media_type}, {width}×{height} pixels, {size} bytes]");
    let (media_type, name) = (media_type.to_owned(), name.to_owned());
    Ok((Image { media_type, hash, name, data: Some(Arc::from(bytes)) }, line))
}

/// What to do about a picture that is too large.
const SMALLER: &str = "read a smaller copy: `magick IN -resize '1500x1500>' OUT.jpg`, \
    `ffmpeg -i IN -vf scale=1500:-2 OUT.jpg`, or Python's PIL";

/// Why a picture of so many bytes is not shown.
pub fn too_large(shown: &impl Display, size: u64) -> String {
    format!("{shown} is a picture of {size} bytes, and {LIMIT} are the most; {SMALLER}")
}

/// Width and height, as the header has them.
fn sides(media_type: &str, bytes: &[u8]) -> Option<(u32, u32)> {
    let byte = |at: usize| bytes.get(at).copied().map(u32::from);
    let big = |at| Some(byte(at)? << 8 | byte(at + 1)?);
    let little = |at| Some(byte(at + 1)? << 8 | byte(at)?);
    let whole = |at| Some(big(at)? << 16 | big(at + 2)?);
    let three = |at| Some(byte(at + 2)? << 16 | little(at)?);
    match media_type {
        "image/png" if bytes.get(12..16) == Some(b"IHDR") => Some((whole(16)?, whole(20)?)),
        "image/gif" => Some((little(6)?, little(8)?)),
        "image/webp" => match bytes.get(12..16)? {
            b"VP8 " => Some((little(26)? & 0x3fff, little(28)? & 0x3fff)),
            // Fourteen bits each, less one.
            b"VP8L" => {
                let bits = little(23)? << 16 | little(21)?;
                Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
            }
            b"VP8X" => Some((three(24)? + 1, three(27)? + 1)),
            _ => None,
        },
        "image/jpeg" => {
            // Segment after segment, until the one with the frame.
            let mut at = 2;
            loop {
                match (byte(at)?, byte(at + 1)?) {
                    // Filling.
                    (0xff, 0xff) => at += 1,
                    // Marks without a length.
                    (0xff, 0x01 | 0xd0..=0xd8) => at += 2,
                    (0xff, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf) => {
                        return Some((big(at + 7)?, big(at + 5)?));
                    }
                    (0xff, 0xda | 0xd9) => return None,
                    (0xff, _) => at += 2 + big(at + 2)?.max(2) as usize,
                    _ => return None,
                }
            }
        }
        _ => None,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The beginning of a PNG of this size, which is all that is looked at.
    pub fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        bytes.extend(width.to_be_bytes().into_iter().chain(height.to_be_bytes()));
        bytes.extend([8, 6, 0, 0, 0]);
        bytes
    }

    fn told(bytes: &[u8]) -> Result<String, String> {
        let picture = picture(&"a", "a", bytes.to_vec());
        picture.map(|(_, line)| line).map_err(|error| error.to_string())
    }

    #[test]
    fn kinds_and_sides_are_read_from_headers() {
        let jpeg = [
            b"\xff\xd8\xff\xe0\0\x04xx\xff\xff\xdb\0\x03y\xff\xc2\0\x0b\x08".as_slice(),
            &[1, 0, 2, 1, 3],
        ];
        let webp = |kind: &[u8], rest: &[u8]| [b"RIFF....WEBP", kind, b"....", rest].concat();
        for (bytes, expected) in [
            (png(640, 480), "image/png, 640×480"),
            (b"GIF89a\x03\x01\x02\0..".to_vec(), "image/gif, 259×2"),
            (jpeg.concat(), "image/jpeg, 513×256"),
            (webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a\x40\x01\xf0\x40"), "image/webp, 320×240"),
            (webp(b"VP8L", &[0x2f, 0x3f, 0xc1, 0x3b, 0]), "image/webp, 320×240"),
            (webp(b"VP8X", &[0, 0, 0, 0, 0x3f, 1, 0, 0xef, 0, 0]), "image/webp, 320×240"),
        ] {
            let line = told(&bytes).unwrap();
            assert!(line.contains(expected), "{line}, not {expected}");
        }
    }

    #[test]
    fn what_is_cut_off_or_too_large_says_what_to_do() {
        for length in 0..26 {
            let cut = &png(640, 480)[..length];
            assert_eq!(media_type(cut).is_some(), length >= 8, "{length}");
            assert_eq!(told(cut).is_ok(), length >= 24, "{length}");
        }
        assert!(told(b"\xff\xd8\xff\xd9").unwrap_err().contains("holds none"));
        assert!(told(&png(8_001, 1)).unwrap_err().contains("-resize"));
        let mut large = png(1, 1);
        large.resize(LIMIT + 1, 0);
        assert!(told(&large).unwrap_err().contains("are the most; read a smaller copy"));
        assert_eq!(media_type(b"<svg xmlns="), None);
    }
}
