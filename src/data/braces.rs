//! Brace expansion, by which people name many shards: `a-{000..146}.tar`, `{train,val}-{0..9}.tar`.
//!
//! The rules are those of a shell: lists, ranges whose zeros in front fix the width, nesting,
//! products. The program expands them itself because a path in a configuration file meets no shell.

/// More shards than any set has; a range with a slip of the hand must not fill the memory.
const MAX_PATHS: usize = 100_000;
/// Braces in or after one another; each is a level of recursion.
const MAX_DEPTH: usize = 8;

/// All paths that `pattern` names, in order.
///
/// # Errors
/// In words: an unbalanced brace, or too many paths.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, String> {
    expand_to(pattern, 0)
}

fn expand_to(pattern: &str, depth: usize) -> Result<Vec<String>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("has more than {MAX_DEPTH} braces in or after one another"));
    }
    let Some(open) = pattern.find('{') else {
        return match pattern.contains('}') {
            true => Err("has a } without its {".into()),
            false => Ok(vec![pattern.into()]),
        };
    };
    let close = closing(pattern, open).ok_or("has a { without its }")?;
    let alternatives = alternatives(&pattern[open + 1..close], depth)?;
    let rest = expand_to(&pattern[close + 1..], depth + 1)?;
    if alternatives.len().saturating_mul(rest.len()) > MAX_PATHS {
        return Err(too_many());
    }
    let before = &pattern[..open];
    let join = |middle: &String| -> Vec<String> {
        rest.iter().map(|after| format!("{before}{middle}{after}")).collect()
    };
    Ok(alternatives.iter().flat_map(join).collect())
}

/// Where the brace that opens at `open` closes.
fn closing(pattern: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    pattern[open..].char_indices().find_map(|(at, c)| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(open + at)
    })
}

/// What a pair of braces stands for.
fn alternatives(inside: &str, depth: usize) -> Result<Vec<String>, String> {
    if let Some((first, last)) = inside.split_once("..")
        && let (Ok(first_number), Ok(last_number)) = (first.parse::<u64>(), last.parse::<u64>())
    {
        if last_number < first_number {
            return Err(format!("the range {{{inside}}} runs backwards"));
        }
        if last_number - first_number >= MAX_PATHS as u64 {
            return Err(too_many());
        }
        let is_padded = |number: &str| number.len() > 1 && number.starts_with('0');
        let padded = is_padded(first) || is_padded(last);
        let width = if padded { first.len().max(last.len()) } else { 0 };
        return Ok((first_number..=last_number).map(|n| format!("{n:0width$}")).collect());
    }
    let mut all = Vec::new();
    for part in split_list(inside) {
        all.extend(expand_to(part, depth + 1)?);
        if all.len() > MAX_PATHS {
            return Err(too_many());
        }
    }
    Ok(all)
}

/// Splits at the commas that lie in no inner brace.
fn split_list(list: &str) -> Vec<&str> {
    let mut depth = 0;
    list.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn too_many() -> String {
    format!("names more than {MAX_PATHS} files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_keep_their_width_and_lists_and_products_keep_their_order() {
        for (pattern, expected) in [
            ("a.tar", vec!["a.tar"]),
            ("a-{008..011}.tar", vec!["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]),
            ("{9..11}", vec!["9", "10", "11"]),
            ("{b,a}{0..1}", vec!["b0", "b1", "a0", "a1"]),
            ("x/{train-{0..1},val-0}.tar", vec!["x/train-0.tar", "x/train-1.tar", "x/val-0.tar"]),
            ("{a}", vec!["a"]),
            ("{é,..}", vec!["é", ".."]),
        ] {
            assert_eq!(expand(pattern).expect(pattern), expected);
        }
    }

    #[test]
    fn unbalanced_braces_and_endless_ranges_are_errors() {
        for (pattern, expected) in [
            ("a{0..1.tar", "{ without its }"),
            ("a0..1}.tar", "} without its {"),
            ("{5..3}", "runs backwards"),
            ("{0..99999999999999}", "more than 100000"),
            ("{0..9999}{0..9999}", "more than 100000"),
            ("{{{{{{{{{{{a}}}}}}}}}}}", "more than 8 braces"),
            ("{a}{a}{a}{a}{a}{a}{a}{a}{a}{a}", "more than 8 braces"),
        ] {
            let message = expand(pattern).expect_err(pattern);
            assert!(message.contains(expected), "{pattern}: {message}");
        }
    }
}
