//! A text as a QR code (ISO/IEC 18004) on a terminal, for WireGuard on a phone.
//!
//! One character shows two modules, one above the other. The light ones are drawn, so that on a terminal with a dark
//! background the code has the colours that it should have; on a terminal that takes colours they are set.

use qrcodegen::{DataTooLong, QrCode, QrCodeEcc};

/// The light margin, in modules.
const MARGIN: i32 = 4;

/// Returns the QR code of a text, as lines.
///
/// # Errors
/// What to do instead, where it holds more than a QR code can.
pub fn picture(text: &str, colours: bool) -> Result<String, String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Low).map_err(|problem| match problem {
        DataTooLong::SegmentTooLong | DataTooLong::DataOverCapacity(..) => format!(
            "no QR code holds {} bytes (2,953 at most): copy the file to the device, or name fewer networks",
            text.len()
        ),
    })?;
    let is_light = |x, y| !code.get_module(x, y);
    let end = code.size() + MARGIN;
    let (begin, reset) = if colours {
        ("\x1b[37;40m", "\x1b[0m")
    } else {
        ("", "")
    };
    let mut lines = String::new();
    for y in (-MARGIN..end).step_by(2) {
        lines += begin;
        lines.extend(
            (-MARGIN..end).map(|x| match (is_light(x, y), is_light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            }),
        );
        lines += reset;
        lines.push('\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads it as a phone would.
    fn scanned(picture: &str) -> String {
        let rows: Vec<Vec<char>> = picture.lines().map(|line| line.chars().collect()).collect();
        let pixel = |x: usize, y: usize| {
            let (x, y) = (x / 4, y / 4);
            let light = match rows[y / 2][x] {
                '█' => true,
                '▀' => y % 2 == 0,
                '▄' => y % 2 == 1,
                _ => false,
            };
            if light { 255 } else { 0 }
        };
        let (width, height) = (rows[0].len() * 4, rows.len() * 8);
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, pixel);
        let codes = image.detect_grids();
        codes[0].decode().unwrap().1
    }

    #[test]
    fn a_phone_reads_the_configuration() {
        let text = "[Interface]\nPrivateKey = abc=\nAddress = 10.99.0.1/32\n\n[Peer]\nAllowedIPs = 10.0.0.0/8, fd00::/8\n";
        assert_eq!(scanned(&picture(text, false).unwrap()), text);
        let long = "x".repeat(2000);
        assert_eq!(scanned(&picture(&long, false).unwrap()), long);
    }

    #[test]
    fn colours_are_set_and_taken_back_on_each_line() {
        let plain = picture("x", false).unwrap();
        assert!(!plain.contains('\x1b'));
        let coloured = picture("x", true).unwrap();
        assert_eq!(coloured.replace("\x1b[37;40m", "").replace("\x1b[0m", ""), plain);
        assert!(coloured.lines().all(|line| line.ends_with("\x1b[0m")));
    }

    #[test]
    fn what_is_too_long_is_refused_with_what_to_do() {
        let said = picture(&"x".repeat(2954), false).unwrap_err();
        assert!(
            said.contains("2954 bytes") && said.contains("copy the file"),
            "{said}"
        );
    }
}
