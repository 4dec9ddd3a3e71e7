//! What a pickle is made of.

use std::borrow::Cow;

/// The index of a [`Value`].
pub(super) type Id = u32;

/// A value of the pickle. Text and bytes are one kind: Python 2 did not tell them apart.
pub(super) enum Value<'a> {
    None,
    Int(i64),
    Float,
    Bytes(Cow<'a, [u8]>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    /// A numpy data type, by its code.
    Dtype(Id),
    /// A numpy array: its state, once that is known.
    Array(Option<Id>),
}

/// The names that may be called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Callable {
    /// Makes an empty array, to be given its state.
    Reconstruct,
    /// The class of arrays, an argument of the former.
    Ndarray,
    Dtype,
    /// How Python 3 writes bytes in old protocols: as text, encoded as Latin-1.
    Encode,
}

impl Callable {
    /// The callable of a name, or a refusal: four names are data, every other is a program.
    pub(super) fn find(module: &[u8], name: &[u8]) -> Result<Self, String> {
        let found = match (module, name) {
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => {
                Some(Self::Reconstruct)
            }
            (b"numpy", b"ndarray") => Some(Self::Ndarray),
            (b"numpy", b"dtype") => Some(Self::Dtype),
            (b"_codecs", b"encode") => Some(Self::Encode),
            _ => None,
        };
        found.ok_or_else(|| {
            let shown = |bytes: &[u8]| -> String {
                String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).escape_debug().collect()
            };
            format!(
                "the pickle asks to run {}.{}, which is not data, and is refused; fetch the file from \
                 its authors",
                shown(module),
                shown(name)
            )
        })
    }
}
