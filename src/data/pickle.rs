//! A reader of Python pickles that understands data and refuses programs.
//!
//! A pickle is a program for a stack machine that can call any function of Python. This reader runs
//! only what the CIFAR files use: numbers, strings, lists, tuples, dictionaries and the pattern by
//! which numpy rebuilds an array (protocols 0 to 4); nothing is ever executed. The machine is in
//! [`machine`]; here is what CIFAR asks of the values it leaves.

mod machine;
mod text;
mod value;

use std::fmt;

use value::{Id, Value};

/// What is wrong, at which byte.
#[derive(Debug)]
pub(super) struct PickleError {
    at: usize,
    problem: String,
}

impl fmt::Display for PickleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.problem)
    }
}

/// A pickle that has been read; borrows the file's bytes.
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

/// A two-dimensional array of bytes.
pub(super) struct ByteArray<'a> {
    num_rows: usize,
    row_bytes: usize,
    order: Order,
    bytes: &'a [u8],
}

/// Which elements of an array follow each other.
enum Order {
    /// Those of a row.
    Rows,
    /// Those of a column.
    Columns,
}

impl ByteArray<'_> {
    /// Rows and bytes a row.
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.num_rows, self.row_bytes)
    }

    /// Appends the array row by row.
    pub(super) fn append_to(&self, rows: &mut Vec<u8>) {
        if self.bytes.is_empty() {
            return; // rows without bytes, as many as a file likes
        }
        match self.order {
            Order::Rows => rows.extend_from_slice(self.bytes),
            Order::Columns => rows.extend(
                (0..self.num_rows)
                    .flat_map(|row| self.bytes[row..].iter().step_by(self.num_rows).copied()),
            ),
        }
    }
}

impl<'a> Pickle<'a> {
    /// Reads a whole pickle.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, PickleError> {
        let (values, root) = machine::run(file)?;
        Ok(Self { values, root })
    }

    /// The value of a key of the dictionary that the pickle is.
    fn get(&self, key: &str) -> Result<&Value<'a>, String> {
        let Value::Dict(entries) = self.value(self.root) else {
            return Err("is not a dictionary; fetch it again".into());
        };
        let is_key =
            |id: &Id| matches!(self.value(*id), Value::Bytes(bytes) if **bytes == *key.as_bytes());
        let entry = entries.iter().rev().find(|(found, _)| is_key(found));
        entry.map(|(_, value)| self.value(*value)).ok_or_else(|| format!("has no entry {key:?}"))
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    fn list(&self, key: &str) -> Result<&[Id], String> {
        match self.get(key)? {
            Value::List(items) => Ok(items),
            _ => Err(format!("has an entry {key:?} that is not a list")),
        }
    }

    /// A list of whole numbers.
    pub(super) fn ints(&self, key: &str) -> Result<Vec<i64>, String> {
        let int = |id: &Id| match self.value(*id) {
            Value::Int(int) => Ok(*int),
            _ => Err(format!("has an entry {key:?} with something that is not a number")),
        };
        self.list(key)?.iter().map(int).collect()
    }

    /// A list of short strings.
    pub(super) fn strings(&self, key: &str) -> Result<Vec<String>, String> {
        let string = |id: &Id| match self.value(*id) {
            Value::Bytes(bytes) if bytes.len() <= 256 => {
                Ok(String::from_utf8_lossy(bytes).into_owned())
            }
            _ => Err(format!("has an entry {key:?} with something that is not a short string")),
        };
        self.list(key)?.iter().map(string).collect()
    }

    /// A two-dimensional array of bytes.
    pub(super) fn byte_array(&self, key: &str) -> Result<ByteArray<'_>, String> {
        let wrong = || format!("has an entry {key:?} that is not an array [images, 3072] of u8");
        let Value::Array(Some(state)) = self.get(key)? else { return Err(wrong()) };
        let Value::Tuple(state) = self.value(*state) else { return Err(wrong()) };
        let &[_, shape, dtype, fortran, bytes] = state.as_slice() else { return Err(wrong()) };
        let (Value::Tuple(shape), Value::Dtype(code)) = (self.value(shape), self.value(dtype))
        else {
            return Err(wrong());
        };
        let side = |id: &Id| match self.value(*id) {
            Value::Int(side) => usize::try_from(*side).ok(),
            _ => None,
        };
        let sides: Option<Vec<usize>> = shape.iter().map(side).collect();
        let is_u8 = matches!(self.value(*code), Value::Bytes(code)
            if matches!(&**code, b"u1" | b"|u1" | b"uint8"));
        let order = match self.value(fortran) {
            Value::Int(0) => Order::Rows,
            Value::Int(_) => Order::Columns,
            _ => return Err(wrong()),
        };
        match (sides.as_deref(), self.value(bytes)) {
            (Some(&[num_rows, row_bytes]), Value::Bytes(bytes))
                if is_u8 && num_rows.checked_mul(row_bytes) == Some(bytes.len()) =>
            {
                Ok(ByteArray { num_rows, row_bytes, order, bytes })
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_bytes_append_nothing() {
        let (mut rows, order) = (vec![7], Order::Columns);
        let (num_rows, row_bytes) = (usize::MAX, 0);
        ByteArray { num_rows, row_bytes, order, bytes: &[] }.append_to(&mut rows);
        assert_eq!(rows, [7]);
    }
}
