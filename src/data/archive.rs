//! The members of a tar file, found by reading its headers once, so that images can be read at
//! random afterwards without unpacking.
//!
//! Nothing is ever written to disk, but names become class names and messages, so names that try to
//! leave the archive are refused, as is everything that is not a plain file: links, devices, sparse
//! files. Every size is checked against the end of the file before it is used. What the members
//! mean is not known here.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use tar::{EntryType, Header, PaxExtensions};

pub(super) const BLOCK_BYTES: u64 = 512;
/// Longer than any path that a file system accepts.
const MAX_NAME_BYTES: u64 = 4096;
/// More than any tool writes into one extended header.
const MAX_PAX_BYTES: u64 = 1 << 20;

/// Bytes that can be read at any place, from several threads.
pub(super) trait ReadAt: Sync {
    /// Fills `bytes` from `offset` on.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// One plain file of a tar.
pub(super) struct Member<'a> {
    /// Its path in the tar, without a leading `./`, never absolute and never upwards.
    pub(super) name: &'a str,
    /// Where its bytes lie in the file that holds the tar.
    pub(super) bytes: Range<u64>,
}

impl Member<'_> {
    /// The number of bytes.
    pub(super) fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    /// The last component of the name.
    pub(super) fn file_name(&self) -> &str {
        self.name.rsplit_once('/').map_or(self.name, |(_, file)| file)
    }
}

/// Calls `visit` with each plain file of the tar that occupies `within` of `file`, in the tar's
/// order. Names that start with a dot are passed over.
///
/// # Errors
/// In words: what is wrong at which byte, and what to do; or what `visit` answers.
pub(super) fn walk(
    file: &dyn ReadAt,
    within: Range<u64>,
    mut visit: impl FnMut(Member) -> Result<(), String>,
) -> Result<(), String> {
    let mut reader = Reader { file, start: within.start, at: within.start, end: within.end };
    let mut pending = Pending::default();
    while let Some(entry) = reader.entry()? {
        let kind = entry.header.entry_type();
        match kind {
            EntryType::GNULongName => pending.name = Some(reader.body(&entry, MAX_NAME_BYTES)?),
            EntryType::XHeader => pending.read_pax(&reader.body(&entry, MAX_PAX_BYTES)?, &entry)?,
            EntryType::XGlobalHeader | EntryType::GNULongLink => reader.skip(entry.size, &entry)?,
            EntryType::Directory => {
                reader.skip(entry.size, &entry)?;
                pending = Pending::default();
            }
            EntryType::Regular | EntryType::Continuous => {
                let Pending { name, size } = std::mem::take(&mut pending);
                let start = reader.at;
                let size = size.unwrap_or(entry.size);
                reader.skip(size, &entry)?;
                let name = name.map_or_else(|| entry.header.path_bytes(), Cow::Owned);
                let name = plain_name(&name).map_err(|problem| entry.problem(&problem))?;
                let member = Member { name: &name, bytes: start..start + size };
                if !member.file_name().starts_with('.') {
                    visit(member)?;
                }
            }
            other => return Err(entry.problem(&not_plain(other))),
        }
    }
    Ok(())
}

/// What extended headers say about the entry after them.
#[derive(Default)]
struct Pending {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Pending {
    fn read_pax(&mut self, bytes: &[u8], entry: &Entry) -> Result<(), String> {
        let malformed = || entry.problem("holds a malformed pax header; fetch it again");
        for extension in PaxExtensions::new(bytes) {
            let extension = extension.map_err(|_| malformed())?;
            let (key, value) = (extension.key_bytes(), extension.value_bytes());
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(malformed)?);
                }
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(entry.problem(&not_plain(EntryType::GNUSparse)));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A header whose checksum is right, and where it stands.
struct Entry {
    header: Box<Header>,
    /// From the start of the tar.
    offset: u64,
    /// By the header; extended headers may say otherwise.
    size: u64,
}

impl Entry {
    /// "byte 1024: n01440764.tar ..."
    fn problem(&self, problem: &str) -> String {
        let name = String::from_utf8_lossy(&self.header.path_bytes()).into_owned();
        format!("byte {}: the member {} {problem}", self.offset, printable(&name))
    }
}

/// A place in a tar.
struct Reader<'a> {
    file: &'a dyn ReadAt,
    start: u64,
    at: u64,
    end: u64,
}

impl Reader<'_> {
    /// The next header, or `None` at the end mark.
    fn entry(&mut self) -> Result<Option<Entry>, String> {
        let offset = self.at - self.start;
        let mut block = [0; BLOCK_BYTES as usize];
        if self.end - self.at < BLOCK_BYTES {
            return Err(format!(
                "the tar ends at byte {offset} without an end mark, so it is cut off; fetch it again"
            ));
        }
        self.read(&mut block)?;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block);
        if !checksum_matches(header) {
            return Err(not_a_header(&block, offset));
        }
        let header = Box::new(header.clone());
        let mut entry = Entry { header, offset, size: 0 };
        entry.size = entry
            .header
            .entry_size()
            .map_err(|_| entry.problem("has a size that is not a number; fetch the tar again"))?;
        Ok(Some(entry))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.file
            .read_at(bytes, self.at)
            .map_err(|error| format!("cannot read byte {}: {error}", self.at - self.start))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The bytes of an extended header of at most `limit` bytes.
    fn body(&mut self, entry: &Entry, limit: u64) -> Result<Vec<u8>, String> {
        if entry.size > limit {
            let problem = format!(
                "is an extended header of {} bytes (at most {limit}); write the tar again with \
                 shorter names",
                entry.size
            );
            return Err(entry.problem(&problem));
        }
        let start = self.at;
        self.skip(entry.size, entry)?;
        let mut bytes = vec![0; entry.size as usize];
        let after = std::mem::replace(&mut self.at, start);
        self.read(&mut bytes)?;
        self.at = after;
        Ok(bytes)
    }

    /// Moves past `size` bytes and the padding after them.
    fn skip(&mut self, size: u64, entry: &Entry) -> Result<(), String> {
        let room = self.end - self.at;
        match size.checked_next_multiple_of(BLOCK_BYTES) {
            Some(padded) if padded <= room => self.at += padded,
            _ => {
                let problem = format!(
                    "claims {size} bytes, but the tar ends after {room}, so it is cut off or \
                     damaged; fetch it again"
                );
                return Err(entry.problem(&problem));
            }
        }
        Ok(())
    }
}

/// Whether the stored sum is that of the header's bytes with the sum's own field blank.
fn checksum_matches(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|&byte| u32::from(byte)).sum();
    header.cksum().is_ok_and(|stored| stored == sum + 8 * u32::from(b' '))
}

fn not_a_header(block: &[u8], offset: u64) -> String {
    if offset > 0 {
        return format!("byte {offset}: no tar header where one must be; fetch the tar again");
    }
    match block {
        [0x1f, 0x8b, ..] => "is compressed with gzip, so it cannot be read at random; gunzip it",
        [b'P', b'K', 3, 4, ..] => "is a zip file, not a tar; unpack it",
        [0xfd, b'7', b'z', b'X', ..] => {
            "is compressed with xz, so it cannot be read at random; \
                                         unxz it"
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            "is compressed with zstd, so it cannot be read at random; \
                                         unzstd it"
        }
        [b'<', ..] => "is a web page, not a tar; fetch it again",
        _ => "is not a tar; fetch it again",
    }
    .into()
}

fn not_plain(kind: EntryType) -> String {
    let (what, advice) = match kind {
        EntryType::Link => ("is a hard link", "write the tar again with --hard-dereference"),
        EntryType::Symlink => ("is a symbolic link", "write the tar again with --dereference"),
        EntryType::GNUSparse => ("is stored sparse", "write the tar again without --sparse"),
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            ("is a device", "write the tar again with plain files only")
        }
        _ => ("is of an unknown type", "write the tar again with plain files only"),
    };
    format!("{what}; {advice}")
}

/// The name as text without a leading `./`, unless it leads out of the archive.
fn plain_name(name: &[u8]) -> Result<String, String> {
    let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name));
    let name = name.strip_prefix("./").unwrap_or(&name);
    let problem = match name {
        "" => "has an empty name",
        _ if name.starts_with('/') => "has an absolute path",
        _ if name.split('/').any(|part| part == "..") => "has a path that leads upwards (..)",
        _ if name.contains('\0') => "has a name with a NUL byte",
        _ => return Ok(name.into()),
    };
    Err(format!("{problem}: {}; write the tar again with relative paths", printable(name)))
}

/// A name from an untrusted file, fit for one line of a message.
pub(super) fn printable(name: &str) -> String {
    let mut text: String = name.chars().take(200).flat_map(char::escape_debug).collect();
    if name.chars().nth(200).is_some() {
        text.push_str("...");
    }
    text
}
