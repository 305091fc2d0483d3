//! Expected bytes are written out by hand from the tables; checksums by the bitwise CRC-32C below.

use proptest::prelude::*;

use super::*;
use penstock_proto::wire::write_frame;

/// CRC-32C by the book: reflected polynomial 0x82f63b78, one bit at a time.
fn crc_by_bits(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            }
        })
    })
}

#[test]
fn the_checksum_is_crc_32c() {
    // The check value of the catalogue (RFC 3720 has the polynomial).
    assert_eq!(crc_by_bits(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        shard: 0x0102,
        number: 3,
        base: 0x0011_2233_4455_6000,
        records_before: 77,
        created_unix_nano: 1_795_178_701_000_000_000,
        predecessor: 2,
        salt: SALT,
        listeners: vec!["apps".to_owned(), "edge".to_owned()],
    }
}

fn segment_page() -> [u8; SEGMENT_HEADER_LEN] {
    let mut page = [0xaa; SEGMENT_HEADER_LEN];
    segment_header().write(&mut page);
    page
}

/// Sets the checksum of damaged bytes right again, so that a later check is reached.
fn reseal(bytes: &mut [u8]) {
    let at = bytes.len() - 4;
    let crc = crc_by_bits(&bytes[..at]);
    bytes[at..].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_segment_header_is_these_bytes() {
    let page = segment_page();
    let mut expected = [0; SEGMENT_HEADER_LEN];
    expected[..8].copy_from_slice(b"PNSJRNL2");
    expected[8..10].copy_from_slice(&[0x02, 0x01]);
    expected[16] = 3;
    expected[24..32].copy_from_slice(&[0x00, 0x60, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00]);
    expected[32] = 77;
    expected[40..48].copy_from_slice(&1_795_178_701_000_000_000_u64.to_le_bytes());
    expected[48] = 2;
    expected[56..64].copy_from_slice(&[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    expected[64..76].copy_from_slice(b"\x02\x00\x04apps\x04edge");
    reseal(&mut expected);
    assert_eq!(page, expected);
    assert_eq!(SegmentHeader::read(&page), Ok(segment_header()));
}

#[test]
fn a_segment_header_is_refused_for_each_fault() {
    let page = segment_page();
    assert_eq!(SegmentHeader::read(&page[..4095]), Err(FormatFault::Short));
    let mut other = page;
    other[7] = b'1';
    assert_eq!(SegmentHeader::read(&other), Err(FormatFault::Version));
    other[6] = b'l';
    assert_eq!(SegmentHeader::read(&other), Err(FormatFault::Magic));
    for at in [8, 23, 64, 2000, 4091, 4095] {
        let mut flipped = page;
        flipped[at] ^= 0x10;
        assert_eq!(
            SegmentHeader::read(&flipped),
            Err(FormatFault::Checksum),
            "byte {at}"
        );
    }
    let mut endless = page;
    endless[64..66].copy_from_slice(&[0xff, 0xff]);
    reseal(&mut endless);
    assert_eq!(SegmentHeader::read(&endless), Err(FormatFault::Length));
    // A last name that would end behind the page.
    let mut beyond = page;
    beyond[64..66].copy_from_slice(&16_u16.to_le_bytes());
    for at in 0..16 {
        beyond[66 + at * 256] = 255;
    }
    reseal(&mut beyond);
    assert_eq!(SegmentHeader::read(&beyond), Err(FormatFault::Length));
}

const HEADER: BlockHeader = BlockHeader {
    len: 5000,
    position: 0x1_2000,
    durable: 0x1_0000,
    segment: 9,
    records_before: 1_000_000,
    entries: 2,
    records: 50,
    salt: SALT,
};

const SALT: u64 = 0x8877_6655_4433_2211;
const KEY: SegmentKey = SegmentKey {
    number: 9,
    salt: SALT,
};

fn block_head() -> [u8; BLOCK_HEADER_LEN] {
    let mut bytes = [0xaa; BLOCK_HEADER_LEN];
    HEADER.write(&mut bytes);
    bytes
}

#[test]
fn a_block_header_is_these_bytes() {
    let mut expected = [0; BLOCK_HEADER_LEN];
    expected[..4].copy_from_slice(b"PNB2");
    expected[4..6].copy_from_slice(&[0x88, 0x13]);
    expected[8..16].copy_from_slice(&[0, 0x20, 1, 0, 0, 0, 0, 0]);
    expected[16..24].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 0]);
    expected[24] = 9;
    expected[32..40].copy_from_slice(&[0x40, 0x42, 0x0f, 0, 0, 0, 0, 0]);
    expected[40] = 2;
    expected[44] = 50;
    expected[48..56].copy_from_slice(&[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
    reseal(&mut expected);
    assert_eq!(block_head(), expected);
    assert_eq!(BlockHeader::read(&expected, KEY, 0x1_2000), Ok(HEADER));
    // 5000 bytes take two pages.
    assert_eq!(HEADER.end_position(), 0x1_4000);
}

#[test]
fn a_block_header_is_refused_for_each_fault() {
    let bytes = block_head();
    let read = |bytes: &[u8]| BlockHeader::read(bytes, KEY, 0x1_2000);
    assert_eq!(read(&bytes[..63]), Err(FormatFault::Short));
    assert_eq!(read(&[0; 64]), Err(FormatFault::Magic));
    for at in 4..64 {
        let mut flipped = bytes;
        flipped[at] ^= 1;
        assert_eq!(read(&flipped), Err(FormatFault::Checksum), "byte {at}");
    }
    let others = [
        (SegmentKey { number: 8, ..KEY }, 0x1_2000),
        (
            SegmentKey {
                salt: SALT ^ 1,
                ..KEY
            },
            0x1_2000,
        ),
        (KEY, 0x1_3000),
    ];
    for (key, position) in others {
        let read = BlockHeader::read(&bytes, key, position);
        assert_eq!(read, Err(FormatFault::Stale), "{key:?} at {position}");
    }
    for len in [0, 63, crate::limits::JOURNAL_BLOCK_LEN as u32 + 1, u32::MAX] {
        let mut bytes = [0; BLOCK_HEADER_LEN];
        BlockHeader { len, ..HEADER }.write(&mut bytes);
        assert_eq!(read(&bytes), Err(FormatFault::Length), "{len}");
    }
}

fn envelope(observed_time_unix_nano: u64) -> Envelope {
    Envelope {
        observed_time_unix_nano,
        listener: 0x0201,
        keep_sixteenths: 16,
        peer: Some("192.0.2.7:5140".parse().expect("an address")),
        deduplicated: false,
    }
}

fn frame(payload: &[u8], records: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    let header = FrameHeader {
        encoding: 1,
        flags: 0,
        priority: 2,
        payload_len: 0,
        records,
        producer: 7,
        sequence: 8,
        payload_crc: 0,
    };
    write_frame(&mut frame, header, payload);
    frame
}

#[test]
fn an_envelope_is_these_bytes() {
    let mut out = [0xaa; ENTRY_HEADER_LEN];
    envelope(0x0807_0605_0403_0201).write(100, &mut out);
    let mut expected = [0; ENTRY_HEADER_LEN];
    expected[..8].copy_from_slice(&[148, 0, 0, 0, 1, 16, 1, 2]);
    expected[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    expected[26..32].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
    expected[32..35].copy_from_slice(&[0x14, 0x14, 1]);
    reseal(&mut expected);
    assert_eq!(out, expected);
}

/// A block of these frames, as the writer lays it out: the last entry's padding counts.
fn block(frames: &[Vec<u8>]) -> (Vec<u8>, BlockHeader) {
    let mut bytes = vec![0; BLOCK_HEADER_LEN];
    for (at, frame) in frames.iter().enumerate() {
        let mut head = [0; ENTRY_HEADER_LEN];
        envelope(at as u64).write(frame.len(), &mut head);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(frame);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let header = BlockHeader {
        len: bytes.len() as u32,
        entries: frames.len() as u32,
        ..HEADER
    };
    header.write(bytes.first_chunk_mut().expect("a header"));
    (bytes, header)
}

type Seen = Vec<Result<(u64, Vec<u8>), FormatFault>>;

fn entries(bytes: &[u8], header: &BlockHeader, verify: bool) -> Seen {
    Entries::new(bytes, header, verify)
        .map(|entry| {
            entry.map(|entry| {
                (
                    entry.envelope.observed_time_unix_nano,
                    entry.payload.to_vec(),
                )
            })
        })
        .collect()
}

fn good(at: u64, payload: &[u8]) -> Result<(u64, Vec<u8>), FormatFault> {
    Ok((at, payload.to_vec()))
}

#[test]
fn entries_come_back_with_their_envelopes() {
    let (bytes, header) = block(&[frame(b"a", 1), frame(b"longer", 2)]);
    assert_eq!(bytes.len(), 64 + (48 + 41 + 7) + (48 + 46 + 2));
    assert_eq!(
        entries(&bytes, &header, true),
        [good(0, b"a"), good(1, b"longer")]
    );
    let first = Entries::new(&bytes, &header, true)
        .next()
        .expect("one")
        .expect("good");
    assert_eq!(first.envelope, envelope(0));
    assert_eq!((first.header.producer, first.header.records), (7, 1));
    for peer in [
        None,
        Some("[2001:db8::1]:65535".parse().expect("an address")),
    ] {
        let mut head = [0; ENTRY_HEADER_LEN];
        let written = Envelope {
            peer,
            deduplicated: peer.is_none(),
            ..envelope(1)
        };
        written.write(0, &mut head);
        assert_eq!(read_envelope(&head), written);
    }
}

#[test]
fn an_entry_is_refused_for_each_fault_and_its_neighbours_are_not() {
    let frames = [frame(b"first", 1), frame(b"middle", 1), frame(b"last", 1)];
    let (bytes, header) = block(&frames);
    // Entries of 48 + 45, 48 + 46 and 48 + 44 bytes, at multiples of 8.
    let (second, third) = (64 + 96, 64 + 96 + 96);
    let damaged = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        entries(&bytes, &header, true)
    };
    let (first, last) = (good(0, b"first"), good(2, b"last"));
    // The payload, the frame's header: the entry's own length still tells where the next begins.
    for at in [second + 48 + 40, second + 48 + 20] {
        let expected = [first.clone(), Err(FormatFault::Checksum), last.clone()];
        assert_eq!(damaged(at), expected, "byte {at}");
    }
    // The envelope: nothing tells where the next entry begins.
    for at in second..second + 48 {
        assert_eq!(
            damaged(at),
            [first.clone(), Err(FormatFault::Checksum)],
            "byte {at}"
        );
    }
    // Payloads that the agent itself has checked are not checked again.
    let mut flipped = bytes.clone();
    flipped[second + 48 + 40] ^= 1;
    assert_eq!(entries(&flipped, &header, false)[1], good(1, b"liddle"));
    // A right checksum over a length that cannot be.
    for len in [0_u32, 47, 10_000] {
        let mut bytes = bytes.clone();
        bytes[second..second + 4].copy_from_slice(&len.to_le_bytes());
        reseal(&mut bytes[second..second + 48]);
        let seen = entries(&bytes, &header, true);
        assert_eq!(seen, [first.clone(), Err(FormatFault::Length)], "{len}");
    }
    // An entry without room for a frame's header, and a frame of another length than its entry.
    for len in [48 + 39, 48 + 45] {
        let mut bytes = bytes.clone();
        bytes[second..second + 4].copy_from_slice(&u32::to_le_bytes(len));
        reseal(&mut bytes[second..second + 48]);
        assert_eq!(
            entries(&bytes, &header, true)[1],
            Err(FormatFault::Length),
            "{len}"
        );
    }
    // Bytes end before the entries do.
    let cut = entries(&bytes[..third + 20], &header, true);
    assert_eq!(cut[2], Err(FormatFault::Short));
    let more = BlockHeader {
        entries: 4,
        ..header
    };
    assert_eq!(entries(&bytes, &more, true)[3], Err(FormatFault::Short));
    // A kind of entry that is not known is stepped over.
    let mut other = bytes.clone();
    other[second + 4] = 9;
    reseal(&mut other[second..second + 48]);
    assert_eq!(entries(&other, &header, true), [first, last]);
}

#[test]
fn file_names_are_16_digits() {
    assert_eq!(segment_file_name(12), "0000000000000012.segment");
    assert_eq!(segment_number("0000000000000012.segment"), Some(12));
    for name in [
        "12.segment",
        "000000000000001x.segment",
        "0000000000000012.segment.tmp",
        ".segment",
    ] {
        assert_eq!(segment_number(name), None, "{name}");
    }
    assert_eq!(shard_folder_name(3), "shard-03");
}

proptest! {
    #[test]
    fn random_bytes_stop_nobody(bytes in prop::collection::vec(any::<u8>(), 0..6000), count in any::<u32>()) {
        prop_assert!(SegmentHeader::read(&bytes).is_err());
        prop_assert!(BlockHeader::read(&bytes, KEY, 0).is_err());
        let header = BlockHeader { len: bytes.len() as u32, entries: count % 100, ..HEADER };
        prop_assert!(Entries::new(&bytes, &header, true).all(|entry| entry.is_err()));
    }

    #[test]
    fn random_pages_with_a_right_checksum_stop_nobody(bytes in prop::collection::vec(any::<u8>(), 4096)) {
        let mut page = bytes;
        page[..8].copy_from_slice(b"PNSJRNL2");
        reseal(&mut page);
        let header = SegmentHeader::read(&page);
        prop_assert!(matches!(header, Ok(_) | Err(FormatFault::Length)));
    }

    #[test]
    fn headers_come_back(len in 64_u32..=1_048_576, numbers in any::<[u64; 5]>(), counts in any::<[u32; 2]>()) {
        let [position, durable, segment, records_before, salt] = numbers;
        let [entries, records] = counts;
        let header = BlockHeader { len, position, durable, segment, records_before, entries, records, salt };
        let mut bytes = [0; BLOCK_HEADER_LEN];
        header.write(&mut bytes);
        prop_assert_eq!(BlockHeader::read(&bytes, header.key(), position), Ok(header));
    }

    #[test]
    fn a_flipped_bit_of_an_entry_is_noticed(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..8),
        place in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let frames: Vec<_> = payloads.iter().map(|payload| frame(payload, 1)).collect();
        let (mut bytes, header) = block(&frames);
        let whole = entries(&bytes, &header, true);
        let expected: Vec<_> = payloads.iter().enumerate().map(|(at, p)| good(at as u64, p)).collect();
        prop_assert_eq!(&whole, &expected);
        // Any bit but those of the padding, which nobody reads.
        let mut used = Vec::new();
        let mut at = BLOCK_HEADER_LEN;
        for frame in &frames {
            used.extend(at..at + ENTRY_HEADER_LEN + frame.len());
            at += (ENTRY_HEADER_LEN + frame.len()).next_multiple_of(8);
        }
        bytes[used[place.index(used.len())]] ^= 1_u8 << bit;
        let damaged = entries(&bytes, &header, true);
        prop_assert!(damaged.iter().any(Result::is_err));
        // What still comes is what was written.
        prop_assert!(damaged.iter().filter(|e| e.is_ok()).all(|entry| expected.contains(entry)));
    }
}
