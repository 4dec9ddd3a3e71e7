//! Which devices to train on, as people write it: a number, `all`, or a list.
//!
//! One type reads the flag and the TOML key, so both accept the same words. Which devices exist is
//! not known here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The devices asked for; CPU threads in place of GPUs are counted the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpus {
    /// The first N devices, N >= 1.
    Count(usize),
    /// Every device of the machine.
    All,
    /// These devices, by index, at least one. An index that stands twice is a device with two ranks.
    List(Vec<usize>),
}

impl Gpus {
    /// How many devices were asked for; `None` for [`Gpus::All`], which depends on the machine.
    #[must_use]
    pub fn num_devices(&self) -> Option<usize> {
        match self {
            Self::Count(count) => Some(*count),
            Self::All => None,
            Self::List(list) => Some(list.len()),
        }
    }
}

impl Default for Gpus {
    fn default() -> Self {
        Self::Count(1)
    }
}

impl fmt::Display for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::All => f.write_str("all"),
            // The comma tells device 3 from three devices.
            Self::List(list) if list.len() == 1 => write!(f, "{},", list[0]),
            Self::List(list) => {
                let words: Vec<_> = list.iter().map(usize::to_string).collect();
                f.write_str(&words.join(","))
            }
        }
    }
}

impl FromStr for Gpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "all" {
            return Ok(Self::All);
        }
        if text.contains(',') {
            return parse_list(text);
        }
        match text.parse() {
            Ok(0) => Err("0 devices cannot train; for the device with index 0 write 0,".into()),
            Ok(count) => Ok(Self::Count(count)),
            Err(_) => Err(format!("expected a number, `all` or a list such as 0,1; got `{text}`")),
        }
    }
}

/// `0,1,` and `0, 1`: indices between commas; one trailing comma is allowed.
fn parse_list(text: &str) -> Result<Gpus, String> {
    let mut list = Vec::new();
    for word in text.strip_suffix(',').unwrap_or(text).split(',') {
        let word = word.trim();
        let index = word.parse().map_err(|_| {
            format!("`{word}` in `{text}` is not a device index; write for instance 0,1")
        })?;
        list.push(index);
    }
    Ok(Gpus::List(list))
}

impl Serialize for Gpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Gpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GpusVisitor)
    }
}

struct GpusVisitor;

impl de::Visitor<'_> for GpusVisitor {
    type Value = Gpus;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of devices, \"all\" or a list such as \"0,1\"")
    }

    fn visit_i64<E: de::Error>(self, count: i64) -> Result<Gpus, E> {
        count.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Gpus, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_all_and_lists_are_read_and_printed_back() {
        for (text, gpus) in [
            ("1", Gpus::Count(1)),
            ("8", Gpus::Count(8)),
            ("all", Gpus::All),
            ("0,1", Gpus::List(vec![0, 1])),
            ("3,", Gpus::List(vec![3])),
            ("0,0", Gpus::List(vec![0, 0])),
        ] {
            assert_eq!(text.parse(), Ok(gpus.clone()));
            assert_eq!(gpus.to_string(), text);
        }
        assert_eq!(" 2, 0 ".parse(), Ok(Gpus::List(vec![2, 0])));
    }

    #[test]
    fn what_is_not_a_set_of_devices_is_refused_with_the_reason() {
        for (text, reason) in [
            ("0", "write 0,"),
            ("0,,1", "not a device index"),
            (",", "not a device index"),
            ("-1", "expected a number"),
            ("", "expected a number"),
            ("cuda:0", "expected a number"),
        ] {
            let error = text.parse::<Gpus>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
