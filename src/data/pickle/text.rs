//! How Python writes strings in pickles, back to bytes.

/// The bytes of a quoted string of Python 2.
pub(super) fn unquote(line: &[u8]) -> Result<Vec<u8>, String> {
    let wrong = || String::from("a string without its quotes; fetch it again");
    let (quote, rest) = line.split_first().ok_or_else(wrong)?;
    let inner = match rest.split_last() {
        Some((last, inner)) if last == quote && matches!(quote, b'\'' | b'"') => inner,
        _ => return Err(wrong()),
    };
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.iter().copied();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => bytes.push(
                unescape(&mut rest).ok_or("a string with an unknown escape; fetch it again")?,
            ),
            byte => bytes.push(byte),
        }
    }
    Ok(bytes)
}

/// The byte of an escape, after its backslash.
fn unescape(rest: &mut impl Iterator<Item = u8>) -> Option<u8> {
    match rest.next()? {
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'x' => {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            Some((digit()? * 16 + digit()?) as u8)
        }
        byte @ (b'\\' | b'\'' | b'"') => Some(byte),
        _ => None,
    }
}

/// Text as protocol 0 writes it, Latin-1 with escapes such as `\u005c`, as UTF-8.
pub(super) fn raw_unicode(line: &[u8]) -> Result<Vec<u8>, String> {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let [byte, after @ ..] = rest {
        rest = after;
        if let (b'\\', [b'u', after @ ..]) = (byte, after) {
            let digits = after.get(..4).and_then(|digits| std::str::from_utf8(digits).ok());
            let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            text.push(code.and_then(char::from_u32).ok_or("text with a damaged escape")?);
            rest = &after[4..];
        } else {
            text.push(char::from(*byte));
        }
    }
    Ok(text.into_bytes())
}

/// What `str.encode("latin1")` makes of text.
pub(super) fn utf8_to_latin1(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "encodes text that is not UTF-8")?;
    text.chars()
        .map(|c| u8::try_from(u32::from(c)))
        .collect::<Result<_, _>>()
        .map_err(|_| "encodes characters that latin1 has not; fetch it again".into())
}
