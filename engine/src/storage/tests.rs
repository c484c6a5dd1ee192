//! What every storage promises, checked with each of them.

use super::*;

/// A storage and what must live as long as it.
struct Subject {
    storage: Arc<dyn Storage>,
    _directory: Option<tempfile::TempDir>,
}

fn subjects() -> Vec<Subject> {
    let beside_the_build = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let mut all: Vec<Subject> = [
        (beside_the_build.clone(), BackendChoice::Auto),
        (beside_the_build.clone(), BackendChoice::Buffered),
        (beside_the_build, BackendChoice::Uring),
        (std::env::temp_dir(), BackendChoice::Auto),
    ]
    .into_iter()
    .filter_map(|(parent, choice)| {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let storage = match RealStorage::open(directory.path(), false, choice) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return None,
            storage => storage.unwrap(),
        };
        Some(Subject { storage: Arc::new(storage), _directory: Some(directory) })
    })
    .collect();
    let memory = Arc::new(MemoryStorage::new());
    let wrapped = Arc::new(FaultStorage::new(Arc::new(MemoryStorage::new())));
    all.push(Subject { storage: memory, _directory: None });
    all.push(Subject { storage: wrapped, _directory: None });
    all
}

fn for_each(check: impl Fn(&dyn Storage)) {
    for subject in subjects() {
        check(&*subject.storage);
    }
}

fn aligned(blocks: usize, byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(blocks * ALIGNMENT);
    buffer.fill(byte);
    buffer
}

fn kind<T: fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_large_durable_write_is_whole_whatever_its_size() {
    for_each(|storage| {
        let file = storage.create("a", Purpose::Log).unwrap();
        for blocks in [127, 128, 129, 500, 1025] {
            let mut bytes = aligned(blocks, 0);
            for (number, block) in bytes.chunks_mut(ALIGNMENT).enumerate() {
                block.fill(u8::try_from(number % 251).unwrap());
            }
            file.write_all_at(8192, &bytes, WriteSync::Data).unwrap();
            let mut found = aligned(blocks, 255);
            file.read_exact_at(8192, &mut found).unwrap();
            assert!(*found == *bytes, "{blocks} blocks on {}", storage.backend());
        }
    });
}

#[test]
fn what_is_written_is_read_through_any_handle() {
    for_each(|storage| {
        for (purpose, sync) in [
            (Purpose::Log, WriteSync::Data),
            (Purpose::Log, WriteSync::None),
            (Purpose::Plain, WriteSync::Data),
            (Purpose::Plain, WriteSync::None),
        ] {
            let file = storage.create("a", purpose).unwrap();
            file.write_all_at(0, &aligned(2, 1), sync).unwrap();
            file.write_all_at(4096, &aligned(3, 2), sync).unwrap();
            file.sync().unwrap();
            assert_eq!(file.bytes().unwrap(), 16_384);
            let again = storage.open("a", Access::Read, purpose).unwrap();
            let mut read = AlignedBuffer::zeroed(16_384);
            again.read_exact_at(0, &mut read).unwrap();
            assert_eq!(&read[..], [&[1; 4096][..], &[2; 12_288][..]].concat());
            storage.remove("a").unwrap();
        }
    });
}

#[test]
fn a_plain_file_takes_any_position_and_length() {
    for_each(|storage| {
        let file = storage.create("checkpoint", Purpose::Plain).unwrap();
        file.write_all_at(0, b"hello", WriteSync::None).unwrap();
        file.write_all_at(7, b"world", WriteSync::Data).unwrap();
        let mut read = [0; 12];
        file.read_exact_at(0, &mut read).unwrap();
        assert_eq!(&read, b"hello\0\0world");
    });
}

#[test]
fn a_read_past_the_end_is_an_end_of_file() {
    for_each(|storage| {
        for (purpose, bytes) in [(Purpose::Log, 4096), (Purpose::Plain, 100)] {
            let file = storage.create("a", purpose).unwrap();
            file.write_all_at(0, &aligned(1, 1)[..bytes], WriteSync::None).unwrap();
            let mut buffer = AlignedBuffer::zeroed(8192);
            assert_eq!(file.read_at(0, &mut buffer).unwrap(), bytes);
            assert_eq!(file.read_at(8192, &mut buffer).unwrap(), 0);
            let result = file.read_exact_at(0, &mut buffer);
            assert_eq!(kind(result), io::ErrorKind::UnexpectedEof);
            storage.remove("a").unwrap();
        }
    });
}

// A log file whose end is not aligned: a direct read that meets it must not go on from there.
#[test]
fn an_unaligned_end_of_a_log_file_is_an_end_of_file() {
    for_each(|storage| {
        let file = storage.create("cut", Purpose::Plain).unwrap();
        file.write_all_at(0, &[1; 5000], WriteSync::Data).unwrap();
        let log = storage.open("cut", Access::Read, Purpose::Log).unwrap();
        let result = log.read_exact_at(0, &mut AlignedBuffer::zeroed(8192));
        assert_eq!(kind(result), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn allocated_bytes_are_zeros_and_written_ones_stay() {
    for_each(|storage| {
        let file = storage.create("a", Purpose::Log).unwrap();
        file.write_all_at(0, &aligned(1, 9), WriteSync::None).unwrap();
        file.allocate(64 * 1024).unwrap();
        assert_eq!(file.bytes().unwrap(), 64 * 1024);
        file.allocate(8192).unwrap();
        file.allocate(0).unwrap();
        assert_eq!(file.bytes().unwrap(), 64 * 1024, "never shrinks");
        let mut read = AlignedBuffer::zeroed(64 * 1024);
        file.read_exact_at(0, &mut read).unwrap();
        assert!(read[..4096].iter().all(|byte| *byte == 9));
        assert!(read[4096..].iter().all(|byte| *byte == 0));
        file.write_all_at(4096, &aligned(1, 8), WriteSync::Data).unwrap();
        file.sync().unwrap();
        assert_eq!(file.bytes().unwrap(), 64 * 1024);
    });
}

#[test]
fn a_name_that_is_taken_is_not_created_again() {
    for_each(|storage| {
        let file = storage.create("a", Purpose::Plain).unwrap();
        file.write_all_at(0, b"kept", WriteSync::None).unwrap();
        let again = storage.create("a", Purpose::Log);
        assert_eq!(kind(again), io::ErrorKind::AlreadyExists);
        assert_eq!(file.bytes().unwrap(), 4);
    });
}

#[test]
fn missing_files_are_not_found() {
    for_each(|storage| {
        let missing = io::ErrorKind::NotFound;
        assert_eq!(kind(storage.open("a", Access::Read, Purpose::Plain)), missing);
        assert_eq!(kind(storage.open("a", Access::Write, Purpose::Log)), missing);
        assert_eq!(kind(storage.rename("a", "b")), missing);
        assert_eq!(kind(storage.remove("a")), missing);
        assert!(storage.list().unwrap().is_empty());
    });
}

#[test]
fn nothing_outside_the_directory_has_a_name() {
    for_each(|storage| {
        for name in ["", ".", "..", "a/b", "/etc/passwd", "../a", "a\0b"] {
            let refused = io::ErrorKind::InvalidInput;
            assert_eq!(kind(storage.create(name, Purpose::Plain)), refused, "{name:?}");
            assert_eq!(kind(storage.open(name, Access::Read, Purpose::Plain)), refused);
            assert_eq!(kind(storage.remove(name)), refused);
            assert!(matches!(storage.lock(name), Err(LockError::Io(_))));
            assert!(matches!(storage.lock_read_only(name), Err(LockError::Io(_))));
            storage.create("ok", Purpose::Plain).unwrap();
            assert_eq!(kind(storage.rename("ok", name)), refused);
            assert_eq!(kind(storage.rename(name, "ok")), refused);
            storage.remove("ok").unwrap();
        }
    });
}

#[test]
fn a_rename_replaces_and_open_handles_follow_the_file() {
    for_each(|storage| {
        let old = storage.create("target", Purpose::Plain).unwrap();
        old.write_all_at(0, b"old", WriteSync::None).unwrap();
        let new = storage.create("source", Purpose::Plain).unwrap();
        new.write_all_at(0, b"newer", WriteSync::None).unwrap();
        storage.rename("source", "target").unwrap();
        storage.sync_directory().unwrap();
        let entries = storage.list().unwrap();
        assert_eq!(entries, [Entry { name: "target".into(), bytes: 5, is_file: true }]);
        let mut read = [0; 3];
        old.read_exact_at(0, &mut read).unwrap();
        assert_eq!(&read, b"old", "the replaced file is still open");
        new.write_all_at(5, b"!", WriteSync::Data).unwrap();
        let opened = storage.open("target", Access::Read, Purpose::Plain).unwrap();
        assert_eq!(opened.bytes().unwrap(), 6);
    });
}

#[test]
fn a_further_name_shares_the_bytes_and_is_counted() {
    for_each(|storage| {
        let file = storage.create("a", Purpose::Plain).unwrap();
        assert_eq!(storage.links("a").unwrap(), 1);
        storage.link("a", storage, "b").unwrap();
        assert_eq!((storage.links("a").unwrap(), storage.links("b").unwrap()), (2, 2));
        file.write_all_at(0, b"later", WriteSync::None).unwrap();
        let mut bytes = [0; 5];
        let other = storage.open("b", Access::Read, Purpose::Plain).unwrap();
        other.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"later");
        assert_eq!(kind(storage.link("a", storage, "b")), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(storage.link("c", storage, "d")), io::ErrorKind::NotFound);
        assert_eq!(kind(storage.links("c")), io::ErrorKind::NotFound);
        assert_eq!(kind(storage.link("a", storage, "../d")), io::ErrorKind::InvalidInput);
        storage.remove("a").unwrap();
        assert_eq!(storage.links("b").unwrap(), 1);
        assert_eq!(kind(storage.links("a")), io::ErrorKind::NotFound);
    });
}

#[test]
fn files_are_not_shared_between_disks() {
    let memory = MemoryStorage::new();
    drop(memory.create("a", Purpose::Plain).unwrap());
    for_each(|storage| {
        assert_eq!(kind(memory.link("a", storage, "z")), io::ErrorKind::CrossesDevices);
    });
}

#[test]
fn handles_and_maps_outlive_the_name() {
    for_each(|storage| {
        let file = storage.create("sealed", Purpose::Log).unwrap();
        file.write_all_at(0, &aligned(4, 5), WriteSync::Data).unwrap();
        let map = file.map().unwrap();
        storage.rename("sealed", "free-1").unwrap();
        storage.remove("free-1").unwrap();
        storage.sync_directory().unwrap();
        assert_eq!(file.bytes().unwrap(), 16_384);
        drop(file);
        map.populate(0..map.len()).unwrap();
        assert_eq!(&*map, &[5; 16_384]);
        assert_eq!(map.as_ptr().addr() % ALIGNMENT, 0);
    });
}

#[test]
fn a_map_has_what_was_written_directly() {
    for_each(|storage| {
        let file = storage.create("sealed", Purpose::Log).unwrap();
        file.allocate(64 * 1024).unwrap();
        file.write_all_at(8192, &aligned(1, 6), WriteSync::Data).unwrap();
        let opened = storage.open("sealed", Access::Read, Purpose::Plain).unwrap();
        let map = opened.map().unwrap();
        assert_eq!(map.len(), 64 * 1024);
        assert_eq!((map[8191], map[8192], map[12_287], map[12_288]), (0, 6, 6, 0));
        assert_eq!(kind(map.populate(0..64 * 1024 + 1)), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_file_opened_for_reading_is_not_written() {
    for_each(|storage| {
        storage.create("a", Purpose::Plain).unwrap();
        let file = storage.open("a", Access::Read, Purpose::Plain).unwrap();
        assert!(file.write_at(0, b"x", WriteSync::None).is_err());
        assert!(file.allocate(4096).is_err());
        assert_eq!(file.bytes().unwrap(), 0);
    });
}

#[test]
fn a_lock_has_one_writer_or_any_readers() {
    for_each(|storage| {
        assert!(storage.lock_read_only("lock").unwrap().is_none(), "nothing to lock");
        assert!(storage.list().unwrap().is_empty(), "and nothing created");

        let writer = storage.lock("lock").unwrap();
        assert!(matches!(storage.lock("lock"), Err(LockError::Held)));
        assert!(matches!(storage.lock_read_only("lock"), Err(LockError::Held)));
        drop(writer);

        let reader = storage.lock_read_only("lock").unwrap().unwrap();
        let other = storage.lock_read_only("lock").unwrap().unwrap();
        assert!(matches!(storage.lock("lock"), Err(LockError::Held)));
        drop(reader);
        assert!(matches!(storage.lock("lock"), Err(LockError::Held)));
        drop(other);
        drop(storage.lock("lock").unwrap());
        assert_eq!(storage.list().unwrap().len(), 1, "the lock file stays");
    });
}

#[test]
fn there_is_room() {
    for_each(|storage| assert!(storage.free_bytes().unwrap() > 0));
}

/// A file whose attempts are as short as it is told.
#[derive(Debug)]
struct ShortFile {
    inner: Arc<dyn StorageFile>,
    most: usize,
    block: usize,
}

impl StorageFile for ShortFile {
    fn write_at(&self, position: u64, bytes: &[u8], sync: WriteSync) -> io::Result<usize> {
        assert_eq!(position % self.block as u64, 0, "every attempt is aligned");
        self.inner.write_at(position, &bytes[..self.most.min(bytes.len())], sync)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.most.min(buffer.len());
        self.inner.read_at(position, &mut buffer[..most])
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }

    fn allocate(&self, bytes: u64) -> io::Result<Allocation> {
        self.inner.allocate(bytes)
    }

    fn map(&self) -> io::Result<Map> {
        self.inner.map()
    }

    fn block_bytes(&self) -> usize {
        self.block
    }
}

#[test]
fn a_short_write_goes_on_from_the_last_whole_block() {
    let wanted: Vec<u8> = (0..10_240u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    for (most, block) in [(1, 1), (1000, 1), (512, 512), (700, 512), (4000, 1024)] {
        let inner = MemoryStorage::new().create("a", Purpose::Plain).unwrap();
        let file = ShortFile { inner, most, block };
        file.write_all_at(0, &wanted, WriteSync::None).unwrap();
        let mut read = vec![0; wanted.len()];
        file.inner.read_exact_at(0, &mut read).unwrap();
        assert_eq!(read, wanted, "{most} {block}");
    }
}

#[test]
fn a_write_that_completes_no_block_twice_in_a_row_fails() {
    for most in [0, 100] {
        let inner = MemoryStorage::new().create("a", Purpose::Plain).unwrap();
        let file = ShortFile { inner, most, block: 512 };
        let result = file.write_all_at(0, &[1; 1024], WriteSync::None);
        assert_eq!(kind(result), io::ErrorKind::WriteZero);
    }
}

#[test]
fn short_reads_are_gathered() {
    let inner = MemoryStorage::new().create("a", Purpose::Plain).unwrap();
    inner.write_all_at(0, &[3; 5000], WriteSync::None).unwrap();
    let file = ShortFile { inner, most: 700, block: 1 };
    let mut read = vec![0; 5000];
    file.read_exact_at(0, &mut read).unwrap();
    assert_eq!(read, [3; 5000]);
}

#[test]
fn backends_have_names() {
    let names = [Backend::Direct, Backend::Buffered, Backend::Memory].map(|b| b.to_string());
    assert_eq!(names, ["direct", "buffered", "memory"]);
    assert_eq!(format!("{:>9}|", Backend::Direct), "   direct|");
}
