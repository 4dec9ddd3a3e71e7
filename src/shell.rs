//! Paths as a shell reads them, for the commands that the program suggests.

use std::path::Path;

/// The path as one word: in quotes where a shell would take it apart.
#[must_use]
pub fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:=@%".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_shell_would_take_apart_is_quoted() {
        let quoted = |text: &str| word(Path::new(text));
        for plain in ["runs/alexnet-split", "a_b.jpg", "/ü/n.png"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(quoted("hot dog/1.jpg"), "'hot dog/1.jpg'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("$HOME"), "'$HOME'");
        assert_eq!(quoted(""), "''");
    }
}
