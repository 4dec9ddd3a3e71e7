//! A reader of Python pickles that understands data and refuses programs.
//!
//! A pickle is a program for a stack machine that can call any function of Python. This reader runs
//! only what the CIFAR files use: numbers, strings, lists, tuples, dictionaries and the pattern by
//! which numpy rebuilds an array (protocols 0 to 4). Four names may be called, and each is a few
//! lines here; every other name is an error, and nothing is ever executed. Strings of the file are
//! not copied, opcodes and copies are counted: memory stays within a small multiple of the file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// CIFAR-100 needs a fifth of it.
const MAX_OPCODES: usize = 1_000_000;

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

/// The index of a [`Value`].
type Id = u32;

/// A value of the pickle. Text and bytes are one kind: Python 2 did not tell them apart.
enum Value<'a> {
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
enum Callable {
    /// Makes an empty array, to be given its state.
    Reconstruct,
    /// The class of arrays, an argument of the former.
    Ndarray,
    Dtype,
    /// How Python 3 writes bytes in old protocols: as text, encoded as Latin-1.
    Encode,
}

impl Callable {
    fn find(module: &[u8], name: &[u8]) -> Option<Self> {
        match (module, name) {
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => {
                Some(Self::Reconstruct)
            }
            (b"numpy", b"ndarray") => Some(Self::Ndarray),
            (b"numpy", b"dtype") => Some(Self::Dtype),
            (b"_codecs", b"encode") => Some(Self::Encode),
            _ => None,
        }
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
        let mut machine = Machine {
            file,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        };
        for _ in 0..MAX_OPCODES {
            let at = machine.at;
            let error = |problem| PickleError { at, problem };
            if let Step::Stop(root) = machine.step().map_err(error)? {
                return Ok(Self { values: machine.values, root });
            }
        }
        let problem = format!("more than {MAX_OPCODES} opcodes; CIFAR's files have fewer");
        Err(PickleError { at: machine.at, problem })
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

/// Whether there is more.
enum Step {
    Continue,
    Stop(Id),
}

struct Machine<'a> {
    file: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Bytes that were copied out of the file.
    copied: usize,
}

const UNDERFLOW: &str = "takes more than there is; the pickle is damaged, fetch it again";
const CUT_OFF: &str = "the pickle is cut off; fetch it again";

impl<'a> Machine<'a> {
    /// Runs one opcode.
    fn step(&mut self) -> Result<Step, String> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return Ok(Step::Stop(self.pop()?)),
            0x80 => drop(self.take(1)?), // PROTO
            0x95 => drop(self.take(8)?), // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),         // POP
            b'1' => drop(self.pop_to_mark()?), // POP_MARK
            b'2' => self.stack.push(*self.stack.last().ok_or(UNDERFLOW)?), // DUP
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Int(1)), // NEWTRUE
            0x89 => self.push(Value::Int(0)), // NEWFALSE
            b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | b'F' | b'G' => self.number(opcode)?,
            b'S' | b'T' | b'U' | b'V' | b'X' | b'B' | b'C' | 0x8c..=0x8e => self.string(opcode)?,
            b'g' | b'h' | b'j' | b'p' | b'q' | b'r' | 0x94 => self.memo(opcode)?,
            b')' => self.push(Value::Tuple(Vec::new())),
            b't' => self.wrap_to_mark(Value::Tuple)?,
            0x85..=0x87 => self.short_tuple(usize::from(opcode - 0x84))?,
            b']' => self.push(Value::List(Vec::new())),
            b'l' => self.wrap_to_mark(Value::List)?,
            b'a' => self.append(1)?,
            b'e' => self.append_to_mark()?,
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => self.dict()?,
            b's' => self.set_items(2)?,
            b'u' => self.set_items_to_mark()?,
            b'c' | 0x93 => self.global(opcode)?,
            b'R' => self.call()?,
            b'b' => self.build()?,
            other => {
                return Err(format!(
                    "the opcode 0x{other:02x} is not one of CIFAR's files, and is refused"
                ));
            }
        }
        Ok(Step::Continue)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).ok_or(CUT_OFF)?;
        let bytes = self.file.get(self.at..end).ok_or(CUT_OFF)?;
        self.at = end;
        Ok(bytes)
    }

    /// A line, without its end.
    fn line(&mut self) -> Result<&'a [u8], String> {
        let rest = &self.file[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or(CUT_OFF)?;
        self.at += len + 1;
        Ok(&rest[..len])
    }

    /// A little-endian number of at most eight bytes.
    fn uint(&mut self, num_bytes: usize) -> Result<u64, String> {
        let bytes = self.take(num_bytes)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn length(&mut self, num_bytes: usize) -> Result<usize, String> {
        usize::try_from(self.uint(num_bytes)?).map_err(|_| CUT_OFF.into())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len() as Id); // fewer values than opcodes
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, String> {
        // What lies below a mark belongs to another opcode.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(UNDERFLOW.into());
        }
        self.stack.pop().ok_or_else(|| UNDERFLOW.into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or(UNDERFLOW)?;
        if mark > self.stack.len() {
            return Err(UNDERFLOW.into());
        }
        Ok(self.stack.split_off(mark))
    }

    fn number(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'I' | b'L' => {
                let line = self.line()?;
                let text = std::str::from_utf8(line).unwrap_or("").trim_end_matches('L');
                Value::Int(text.parse().map_err(|_| "not a number; fetch it again")?)
            }
            b'J' => Value::Int(i64::from(self.uint(4)? as u32 as i32)),
            b'K' => Value::Int(self.uint(1)? as i64),
            b'M' => Value::Int(self.uint(2)? as i64),
            0x8a => {
                let num_bytes = self.length(1)?;
                if num_bytes > 8 {
                    return Err("a number of more than 64 bits; CIFAR's files have none".into());
                }
                let shift = 64 - 8 * num_bytes as u32;
                let value = self.uint(num_bytes)?;
                // The sign is that of the highest byte there is.
                Value::Int(value.checked_shl(shift).map_or(0, |high| high as i64 >> shift))
            }
            b'F' => {
                self.line()?;
                Value::Float
            }
            _ => {
                self.take(8)?;
                Value::Float
            }
        };
        self.push(value);
        Ok(())
    }

    fn string(&mut self, opcode: u8) -> Result<(), String> {
        let bytes = match opcode {
            b'S' => {
                let line = self.line()?;
                Cow::Owned(self.copy(unquote(line)?)?)
            }
            b'V' => {
                let line = self.line()?;
                Cow::Owned(self.copy(raw_unicode(line)?)?)
            }
            b'U' | b'C' | 0x8c => {
                let len = self.length(1)?;
                Cow::Borrowed(self.take(len)?)
            }
            b'T' | b'X' | b'B' => {
                let len = self.length(4)?;
                Cow::Borrowed(self.take(len)?)
            }
            _ => {
                let len = self.length(8)?;
                Cow::Borrowed(self.take(len)?)
            }
        };
        self.push(Value::Bytes(bytes));
        Ok(())
    }

    /// Counts copied bytes: a pickle of CIFAR has nothing to copy twice.
    fn copy(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        self.copied += bytes.len();
        match self.copied <= 2 * self.file.len() {
            true => Ok(bytes),
            false => Err("the pickle grows beyond twice its size, and is refused".into()),
        }
    }

    fn memo(&mut self, opcode: u8) -> Result<(), String> {
        let key = match opcode {
            b'g' | b'p' => std::str::from_utf8(self.line()?)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or("not a number; fetch it again")?,
            b'h' | b'q' => self.uint(1)? as u32,
            b'j' | b'r' => self.uint(4)? as u32,
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'g' | b'h' | b'j') {
            let value = *self.memo.get(&key).ok_or("refers to nothing; fetch it again")?;
            self.stack.push(value);
        } else {
            self.memo.insert(key, *self.stack.last().ok_or(UNDERFLOW)?);
        }
        Ok(())
    }

    fn wrap_to_mark(&mut self, wrap: fn(Vec<Id>) -> Value<'a>) -> Result<(), String> {
        let items = self.pop_to_mark()?;
        self.push(wrap(items));
        Ok(())
    }

    fn short_tuple(&mut self, len: usize) -> Result<(), String> {
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self, len: usize) -> Result<(), String> {
        self.marks.push(self.stack.len().checked_sub(len).ok_or(UNDERFLOW)?);
        self.append_to_mark()
    }

    fn append_to_mark(&mut self) -> Result<(), String> {
        let items = self.pop_to_mark()?;
        match self.top()? {
            Value::List(list) => list.extend(items),
            _ => return Err("appends to something that is not a list; fetch it again".into()),
        }
        Ok(())
    }

    fn dict(&mut self) -> Result<(), String> {
        let items = self.pop_to_mark()?;
        self.push(Value::Dict(pairs(&items)?));
        Ok(())
    }

    fn set_items(&mut self, len: usize) -> Result<(), String> {
        self.marks.push(self.stack.len().checked_sub(len).ok_or(UNDERFLOW)?);
        self.set_items_to_mark()
    }

    fn set_items_to_mark(&mut self) -> Result<(), String> {
        let items = pairs(&self.pop_to_mark()?)?;
        match self.top()? {
            Value::Dict(entries) => entries.extend(items),
            _ => return Err("sets items of something that is not a dictionary".into()),
        }
        Ok(())
    }

    /// The value on top of the stack.
    fn top(&mut self) -> Result<&mut Value<'a>, String> {
        let id = *self.stack.last().ok_or(UNDERFLOW)?;
        Ok(&mut self.values[id as usize])
    }

    fn global(&mut self, opcode: u8) -> Result<(), String> {
        let callable = if opcode == b'c' {
            let (module, name) = (self.line()?, self.line()?);
            callable(module, name)?
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.values[module as usize], &self.values[name as usize]) {
                (Value::Bytes(module), Value::Bytes(name)) => callable(module, name)?,
                _ => return Err("names a function by something that is not text".into()),
            }
        };
        self.push(Value::Callable(callable));
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Callable(callable) = self.values[callable as usize] else {
            return Err("calls something that cannot be called; it is refused".into());
        };
        let Value::Tuple(arguments) = &self.values[arguments as usize] else {
            return Err("calls a function without a tuple of arguments".into());
        };
        let value = match (callable, arguments.as_slice()) {
            (Callable::Reconstruct, _) => Value::Array(None),
            (Callable::Dtype, &[code, ..]) => Value::Dtype(code),
            (Callable::Encode, &[text, encoding]) => {
                let (Value::Bytes(text), Value::Bytes(encoding)) =
                    (&self.values[text as usize], &self.values[encoding as usize])
                else {
                    return Err("encodes something that is not text".into());
                };
                if !matches!(&**encoding, b"latin1" | b"latin-1") {
                    return Err("encodes text as something other than latin1; refused".into());
                }
                let bytes = utf8_to_latin1(text)?;
                Value::Bytes(Cow::Owned(self.copy(bytes)?))
            }
            _ => return Err("calls a function with arguments it does not take; refused".into()),
        };
        self.push(value);
        Ok(())
    }

    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        match self.top()? {
            Value::Array(known) => *known = Some(state),
            // Byte order and alignment mean nothing for bytes.
            Value::Dtype(_) => {}
            _ => return Err("gives a state to something that has none; refused".into()),
        }
        Ok(())
    }
}

fn callable(module: &[u8], name: &[u8]) -> Result<Callable, String> {
    Callable::find(module, name).ok_or_else(|| {
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

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    match items.len() % 2 {
        0 => Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()),
        _ => Err("a dictionary with a key without a value; fetch it again".into()),
    }
}

/// The bytes of a quoted string of Python 2.
fn unquote(line: &[u8]) -> Result<Vec<u8>, String> {
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
fn raw_unicode(line: &[u8]) -> Result<Vec<u8>, String> {
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

fn utf8_to_latin1(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "encodes text that is not UTF-8")?;
    text.chars()
        .map(|c| u8::try_from(u32::from(c)))
        .collect::<Result<_, _>>()
        .map_err(|_| "encodes characters that latin1 has not; fetch it again".into())
}
