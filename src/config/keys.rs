//! Which keys exist, where a file writes them, and what a misspelt one probably meant.
//!
//! The known keys are those of the serialised defaults, so a new field needs no line here.

use toml::{Spanned, Table, Value, de::DeTable, de::DeValue};

use super::{
    error::{ConfigError, Origin},
    schema::Config,
};

/// Names that other trainers use, and ours.
const SYNONYMS: [(&str, &str); 13] = [
    ("batch", "train.batch_size"),
    ("base_lr", "train.lr"),
    ("learning_rate", "train.lr"),
    ("max_iter", "train.max_steps"),
    ("wd", "train.weight_decay"),
    ("dtype", "train.precision"),
    ("gamma", "schedule.factor"),
    ("milestones", "schedule.at"),
    ("scheduler", "schedule.kind"),
    ("model", "net.arch"),
    ("num_workers", "data.workers"),
    ("data_dir", "data.path"),
    ("deterministic", "devices.algorithms"),
];

/// Below this similarity (0 to 1) a guess would mislead.
const SIMILAR: f64 = 0.8;

/// What a dotted key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// A value.
    Key,
    /// A table of keys.
    Section,
    /// Nothing.
    Unknown,
}

/// The tree of known keys, with the default values.
pub(super) fn default_table() -> Table {
    Table::try_from(Config::default()).expect("the defaults are TOML values")
}

/// What `key` names.
pub(super) fn lookup(defaults: &Table, key: &str) -> Known {
    let mut table = defaults;
    let mut words = key.split('.').peekable();
    while let Some(word) = words.next() {
        match (table.get(word), words.peek()) {
            (Some(Value::Table(_)), None) => return Known::Section,
            (Some(Value::Table(inner)), Some(_)) => table = inner,
            (Some(_), None) => return Known::Key,
            _ => break,
        }
    }
    Known::Unknown
}

/// Every known key, dotted.
fn dotted(table: &Table, prefix: &str, out: &mut Vec<String>) {
    for (word, value) in table {
        let key = join(prefix, word);
        match value {
            Value::Table(inner) => dotted(inner, &key, out),
            _ => out.push(key),
        }
    }
}

fn join(prefix: &str, word: &str) -> String {
    if prefix.is_empty() { word.into() } else { format!("{prefix}.{word}") }
}

/// How alike two keys are: as a whole, or by the last word when only the section is wrong.
fn similarity(key: &str, candidate: &str) -> f64 {
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned).unwrap_or_default();
    let (word, other) = (last(key), last(candidate));
    let moved = if word == other { 0.95 } else { 0.9 * strsim::jaro_winkler(&word, &other) };
    strsim::jaro_winkler(key, candidate).max(moved)
}

/// The end of an unknown key's message: the likely key, and its section's keys.
pub(super) fn hint(defaults: &Table, key: &str) -> String {
    let mut keys = Vec::new();
    dotted(defaults, "", &mut keys);
    let word = key.rsplit('.').next().unwrap_or(key);
    let synonym = SYNONYMS.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours);
    let nearest = keys
        .iter()
        .map(|candidate| (similarity(key, candidate), candidate.as_str()))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .map(|(_, candidate)| candidate);
    let guess = synonym.or(nearest);
    let section = guess.unwrap_or(key).split('.').next().unwrap_or_default();
    let question = guess.map(|guess| format!("; did you mean {guess}?")).unwrap_or_default();
    match defaults.get(section).and_then(Value::as_table) {
        Some(table) => {
            let words: Vec<_> = table.keys().map(String::as_str).collect();
            format!("{question} (the keys of [{section}] are {})", words.join(", "))
        }
        None => {
            let words: Vec<_> = defaults.keys().map(|word| format!("[{word}]")).collect();
            format!("{question} (the sections are {})", words.join(", "))
        }
    }
}

/// A key that a file sets.
pub(super) struct Written {
    /// The dotted key.
    pub(super) key: String,
    /// The bytes of the value.
    pub(super) value: std::ops::Range<usize>,
    /// The line of the key, from 1.
    pub(super) line: usize,
}

/// A file's text with the name to print.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    /// The path, as the user wrote it.
    pub(super) name: &'a str,
    /// The TOML.
    pub(super) text: &'a str,
}

impl Text<'_> {
    /// The line of a byte, from 1.
    pub(super) fn line(&self, byte: usize) -> usize {
        1 + self.text.bytes().take(byte).filter(|byte| *byte == b'\n').count()
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let start = error.span().map_or(0, |span| span.start);
        let before = self.text.get(..start).unwrap_or(self.text);
        let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
        ConfigError::Syntax {
            name: self.name.into(),
            line: self.line(start),
            column,
            message: error.message().into(),
        }
    }

    /// The keys that the file sets, in its order.
    ///
    /// # Errors
    /// If the text is not TOML, names an unknown key, or gives a section a plain value; the first
    /// such place in the file is the one named.
    pub(super) fn keys(&self) -> Result<Vec<Written>, ConfigError> {
        let root = DeTable::parse(self.text).map_err(|error| self.syntax(&error))?;
        let mut walk =
            Walk { text: self, defaults: default_table(), written: vec![], errors: vec![] };
        walk.table(root.get_ref(), "");
        let first = walk.errors.into_iter().min_by_key(|(byte, _)| *byte);
        if let Some((_, error)) = first {
            return Err(error);
        }
        walk.written.sort_by_key(|written| written.value.start);
        Ok(walk.written)
    }
}

/// The walk over a parsed file.
struct Walk<'a> {
    text: &'a Text<'a>,
    defaults: Table,
    written: Vec<Written>,
    /// By the byte where the key starts: the parser does not keep the file's order.
    errors: Vec<(usize, ConfigError)>,
}

impl Walk<'_> {
    fn table(&mut self, table: &DeTable<'_>, prefix: &str) {
        for (word, value) in table {
            self.entry(&join(prefix, word.get_ref()), word.span().start, value);
        }
    }

    fn entry(&mut self, key: &str, start: usize, value: &Spanned<DeValue<'_>>) {
        let line = self.text.line(start);
        let origin = || Origin::File { name: self.text.name.into(), line };
        match (lookup(&self.defaults, key), value.get_ref()) {
            (Known::Section, DeValue::Table(inner)) => self.table(inner, key),
            (Known::Section, other) => {
                let message =
                    format!("this is a section; expected [{key}], found {}", other.type_str());
                let error = ConfigError::WrongType { origin: origin(), key: key.into(), message };
                self.errors.push((start, error));
            }
            (Known::Key, _) => {
                self.written.push(Written { key: key.into(), value: value.span(), line });
            }
            // An unknown table is named by its first key, which says more about what was meant.
            (Known::Unknown, DeValue::Table(inner)) if !inner.is_empty() => {
                self.table(inner, key);
            }
            (Known::Unknown, _) => {
                let hint = hint(&self.defaults, key);
                let error = ConfigError::UnknownKey { origin: origin(), key: key.into(), hint };
                self.errors.push((start, error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_misplaced_or_foreign_key_leads_to_ours() {
        let defaults = default_table();
        for (wrong, right) in [
            ("train.learning_rate", "train.lr"),
            ("train.batchsize", "train.batch_size"),
            ("batch_size", "train.batch_size"),
            ("train.warmup_epochs", "schedule.warmup_epochs"),
            ("data.num_workers", "data.workers"),
            ("net.drop_out", "net.dropout"),
            ("data.generated.sise", "data.generated.size"),
        ] {
            let hint = hint(&defaults, wrong);
            assert!(hint.starts_with(&format!("; did you mean {right}?")), "{wrong}{hint}");
        }
        let far = hint(&defaults, "zzz");
        assert_eq!(far, " (the sections are [data], [devices], [net], [run], [schedule], [train])");
    }

    #[test]
    fn keys_sections_and_other_words_are_told_apart() {
        let defaults = default_table();
        assert_eq!(lookup(&defaults, "train.lr"), Known::Key);
        assert_eq!(lookup(&defaults, "data.generated"), Known::Section);
        assert_eq!(lookup(&defaults, "data.generated.size"), Known::Key);
        for unknown in ["train.lr.x", "", "train.", ".lr", "lr"] {
            assert_eq!(lookup(&defaults, unknown), Known::Unknown, "{unknown}");
        }
    }

    /// The dotted names of all keys in `table`.
    fn names(table: &Table, prefix: &str) -> Vec<String> {
        let name = |(key, value): (&String, &Value)| match value {
            Value::Table(inner) => names(inner, &format!("{prefix}{key}.")),
            _ => vec![format!("{prefix}{key}")],
        };
        table.iter().flat_map(name).collect()
    }

    #[test]
    fn the_reference_tells_of_every_key_and_of_no_other() {
        let reference = include_str!("../../docs/configuration.md");
        let rows = reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut told: Vec<_> = rows.map(str::to_owned).collect();
        told.sort_unstable();
        let mut known = names(&default_table(), "");
        known.sort_unstable();
        assert_eq!(told, known);
    }
}
