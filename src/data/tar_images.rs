//! Images inside tar files: one split, read at random where it lies.
//!
//! An image costs 16 bytes of memory: 1.3 million take 20 MB. Names are not kept; a message reads
//! them from the tar again. Which members are images, and what their labels are, is decided by the
//! layouts that build a [`TarImages`].

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tar::Header;

use super::archive::{BLOCK_BYTES, Member, printable, walk};
use super::class_names::Classes;
use super::error::DataError;
use super::files::MAX_FILE_BYTES;
use super::source::{Content, Source};

/// More files than this are opened anew for every read, to stay clear of the limit on open files.
const MAX_OPEN: usize = 256;

/// Where one image lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The first of its bytes, in blocks from the start of the file.
    block: u32,
    /// Its bytes, at most [`MAX_FILE_BYTES`].
    num_bytes: u32,
    /// Which file.
    pub(super) file: u32,
    /// Its class.
    pub(super) label: u32,
}

impl Place {
    /// # Errors
    /// In words, if the member is no photograph for its size.
    pub(super) fn new(member: &Member, file: u32, label: u32) -> Result<Self, String> {
        let name = || printable(member.name);
        if member.len() > MAX_FILE_BYTES {
            return Err(format!(
                "the member {} has {} bytes (at most {} MiB); is it an image?",
                name(),
                member.len(),
                MAX_FILE_BYTES >> 20
            ));
        }
        let block = u32::try_from(member.bytes.start / BLOCK_BYTES)
            .map_err(|_| format!("the member {} lies beyond 2 TiB; split the tar", name()))?;
        Ok(Self { block, num_bytes: member.len() as u32, file, label })
    }

    /// The same image, of another class.
    pub(super) fn with_label(self, label: u32) -> Self {
        Self { label, ..self }
    }

    fn offset(&self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES
    }
}

/// A file that holds one or more tars.
pub(super) struct TarFile {
    path: PathBuf,
    file: Option<File>,
}

impl TarFile {
    /// Remembers where a file is, without opening it.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.into(), file: None }
    }

    /// Opens it for the time of indexing; its length comes along.
    pub(super) fn open(&self) -> Result<(File, u64), DataError> {
        let file = File::open(&self.path).map_err(DataError::io("open", &self.path))?;
        let len = file.metadata().map_err(DataError::io("read", &self.path))?.len();
        Ok((file, len))
    }

    /// Calls `visit` with every plain file of the tar at `within`.
    pub(super) fn walk(
        &self,
        file: &File,
        within: Range<u64>,
        visit: impl FnMut(Member) -> Result<(), String>,
    ) -> Result<(), DataError> {
        walk(file, within, visit).map_err(|problem| self.malformed(problem))
    }

    /// An error about this file.
    pub(super) fn malformed(&self, problem: String) -> DataError {
        DataError::malformed(&self.path, problem)
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.file {
            Some(file) => file.read_exact_at(bytes, offset),
            None => File::open(&self.path)?.read_exact_at(bytes, offset),
        }
    }
}

/// One split, in tar files.
pub(super) struct TarImages {
    files: Vec<TarFile>,
    images: Vec<Place>,
    classes: Classes,
}

impl TarImages {
    /// Keeps the files open unless they are many.
    pub(super) fn new(
        mut files: Vec<TarFile>,
        images: Vec<Place>,
        classes: Classes,
    ) -> Result<Self, DataError> {
        if images.is_empty() {
            let path = files.first().map(|file| file.path.clone()).unwrap_or_default();
            return Err(DataError::NoImages { path });
        }
        if files.len() <= MAX_OPEN {
            for file in &mut files {
                file.file = Some(file.open()?.0);
            }
        }
        Ok(Self { files, images, classes })
    }
}

impl Source for TarImages {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes.ids
    }

    fn class_names(&self) -> &[String] {
        &self.classes.names
    }

    fn label(&self, index: usize) -> usize {
        self.images[index].label as usize
    }

    fn name(&self, index: usize) -> String {
        let place = &self.images[index];
        let file = &self.files[place.file as usize];
        let mut header = [0; BLOCK_BYTES as usize];
        // An image's bytes follow its header.
        let name = match file.read(&mut header, place.offset() - BLOCK_BYTES) {
            Ok(()) => {
                let name = Header::from_byte_slice(&header).path_bytes().into_owned();
                printable(&String::from_utf8_lossy(&name))
            }
            Err(_) => format!("the member at byte {}", place.offset()),
        };
        format!("{}: {name}", file.path.display())
    }

    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<Content> {
        let place = &self.images[index];
        bytes.resize(place.num_bytes as usize, 0);
        self.files[place.file as usize].read(bytes, place.offset())?;
        Ok(Content::Encoded)
    }
}
