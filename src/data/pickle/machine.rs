//! The stack machine whose programs pickles are, as far as it makes data.
//!
//! Strings of the file are not copied, opcodes and copies are counted: memory stays within a small
//! multiple of the file. What the values mean is not known here.

use std::borrow::Cow;
use std::collections::HashMap;

use super::PickleError;
use super::text::{raw_unicode, unquote, utf8_to_latin1};
use super::value::{Callable, Id, Value};

/// CIFAR-100 needs a fifth of it.
const MAX_OPCODES: usize = 1_000_000;

/// Runs a whole pickle: its values, and which of them it is.
pub(super) fn run(file: &[u8]) -> Result<(Vec<Value<'_>>, Id), PickleError> {
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
            return Ok((machine.values, root));
        }
    }
    let problem = format!("more than {MAX_OPCODES} opcodes; CIFAR's files have fewer");
    Err(PickleError { at: machine.at, problem })
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
    /// Heights of the stack, none below the one before it or above the top.
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
            b'a' => self.append()?,
            b'e' => self.append_to_mark()?,
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => self.dict()?,
            b's' => self.set_item()?,
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
        self.before_last(1)?;
        self.stack.pop().ok_or_else(|| UNDERFLOW.into())
    }

    /// The height of the stack without its last `len` values. What lies below a mark belongs to
    /// another opcode.
    fn before_last(&self, len: usize) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let height = self.stack.len().checked_sub(len).filter(|&height| height >= floor);
        height.ok_or_else(|| UNDERFLOW.into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or(UNDERFLOW)?;
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

    fn append(&mut self) -> Result<(), String> {
        self.marks.push(self.before_last(1)?);
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

    fn set_item(&mut self) -> Result<(), String> {
        self.marks.push(self.before_last(2)?);
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
            Callable::find(module, name)?
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.values[module as usize], &self.values[name as usize]) {
                (Value::Bytes(module), Value::Bytes(name)) => Callable::find(module, name)?,
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

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    match items.len() % 2 {
        0 => Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()),
        _ => Err("a dictionary with a key without a value; fetch it again".into()),
    }
}
