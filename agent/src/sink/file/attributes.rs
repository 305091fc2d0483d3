//! Attributes of one record as they stand encoded in a buffer: of those with one key the last holds,
//! in every format, whatever a format's readers would make of the others.

/// One encoded attribute in the buffer.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub start: u32,
    pub key_start: u32,
    pub key_end: u32,
    pub end: u32,
}

fn key(bytes: &[u8], span: Span) -> &[u8] {
    &bytes[span.key_start as usize..span.key_end as usize]
}

/// Whether a key stands twice; the spans may be in another order afterwards.
///
/// Pairs up to eight are compared one by one; beyond that, where a stranger could make it costly,
/// they are sorted by key and then by place.
pub fn has_equal_keys(bytes: &[u8], spans: &mut [Span]) -> bool {
    if spans.len() <= 8 {
        return spans.iter().enumerate().any(|(at, &span)| {
            let rest = &spans[at + 1..];
            rest.iter()
                .any(|&other| key(bytes, other) == key(bytes, span))
        });
    }
    sort_by_key(bytes, spans);
    spans
        .windows(2)
        .any(|pair| key(bytes, pair[0]) == key(bytes, pair[1]))
}

fn sort_by_key(bytes: &[u8], spans: &mut [Span]) {
    spans.sort_unstable_by(|&a, &b| key(bytes, a).cmp(key(bytes, b)).then(a.start.cmp(&b.start)));
}

/// Leaves the last span of each key, in the order in which they stand.
#[cold]
pub fn keep_last_of_equal_keys(bytes: &[u8], spans: &mut Vec<Span>) {
    sort_by_key(bytes, spans);
    let mut kept = 0;
    for at in 0..spans.len() {
        let span = spans[at];
        let superseded = spans
            .get(at + 1)
            .is_some_and(|&next| key(bytes, next) == key(bytes, span));
        if !superseded {
            spans[kept] = span;
            kept += 1;
        }
    }
    spans.truncate(kept);
    spans.sort_unstable_by_key(|span| span.start);
}
