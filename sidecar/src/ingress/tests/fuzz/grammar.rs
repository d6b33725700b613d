//! Bytes of clients by chance: valid, odd and invalid pieces of requests, and what a few changes make of them.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What a client sends, and where its bytes are parted.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    pub(super) parts: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Put(u8),
    Insert(u8),
    Remove(usize),
    Repeat(usize),
}

type Piece = BoxedStrategy<Vec<u8>>;

/// A few requests behind each other.
pub(super) fn sent() -> impl Strategy<Value = Sent> {
    let requests = prop::collection::vec(request(), 1..4).prop_map(|it| it.concat());
    let changes = prop_oneof![
        3 => Just(vec![]),
        2 => prop::collection::vec((any::<Index>(), change()), 1..3),
    ];
    let cut = prop::option::weighted(0.1, any::<Index>());
    let parts = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(any::<Index>(), 1..4)];
    (requests, changes, cut, parts).prop_map(|(mut bytes, changes, cut, parts)| {
        for (at, change) in changes {
            change.apply(&mut bytes, at);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let mut parts: Vec<usize> = parts.iter().map(|it| it.index(bytes.len() + 1)).collect();
        parts.sort_unstable();
        Sent { bytes, parts }
    })
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, at: Index) {
        let at = at.index(bytes.len() + 1);
        let end = |length: usize| (at + length).min(bytes.len());
        match self {
            Self::Put(byte) => {
                if let Some(there) = bytes.get_mut(at) {
                    *there = *byte;
                }
            }
            Self::Insert(byte) => bytes.insert(at, *byte),
            Self::Remove(length) => drop(bytes.drain(at..end(*length))),
            Self::Repeat(length) => {
                let again = bytes[at..end(*length)].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    const BYTES: &[u8] = b"\r\n\0\t :;,\x0b\x0c\x7f\x80\x85\xa0\xff0159afxX/#%\\\"";
    let byte = prop_oneof![3 => select(BYTES), 1 => any::<u8>()];
    prop_oneof![
        2 => byte.clone().prop_map(Change::Put),
        2 => byte.prop_map(Change::Insert),
        1 => (1..6_usize).prop_map(Change::Remove),
        1 => (1..40_usize).prop_map(Change::Repeat),
    ]
}

fn of(texts: &'static [&'static [u8]]) -> Piece {
    select(texts).prop_map(<[u8]>::to_vec).boxed()
}

/// Mostly one of the first, seldom one of the others.
fn mostly(weight: u32, well: &'static [&'static [u8]], odd: &'static [&'static [u8]]) -> Piece {
    prop_oneof![weight => of(well), 1 => of(odd)].boxed()
}

fn end_of_line() -> Piece {
    mostly(
        150,
        &[b"\r\n"],
        &[b"\n", b"\r", b"\r\r\n", b"\n\r", b"", b" \r\n", b"\x0b\r\n"],
    )
}

fn request() -> Piece {
    let before = mostly(20, &[b""], &[b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\r"]);
    let head = (
        before,
        line(),
        host(),
        prop::collection::vec(field(), 0..4),
        end_of_line(),
    );
    (head, framed(), any::<bool>())
        .prop_map(
            |((before, line, host, mut fields, end), (framing, body), host_last)| {
                fields.push(framing);
                if host_last {
                    fields.push(host);
                } else {
                    fields.insert(0, host);
                }
                [before, line, fields.concat(), end, body].concat()
            },
        )
        .boxed()
}

fn line() -> Piece {
    let method = mostly(
        12,
        &[
            b"GET",
            b"POST",
            b"PUT",
            b"HEAD",
            b"OPTIONS",
            b"DELETE",
            b"PROPFIND",
            b"M-SEARCH",
        ],
        &[
            b"CONNECT",
            b"TRACE",
            b"get",
            b"GE(T",
            b"",
            b"\0",
            b"PRI",
            b"G\xc3\xa9",
            b"x!#$%&'*+-.^_`|~0",
        ],
    );
    let target = mostly(
        3,
        &[
            b"/",
            b"/a/b?c=d&e",
            b"/%41b",
            b"/a;b=c,d",
            b"/a?",
            b"/.",
            b"/a:80",
        ],
        &[
            b"*",
            b"http://real/p?q",
            b"HTTP://h/",
            b"http://h",
            b"http://h?x=y",
            b"https://[::1]:8/",
            b"http://u@h/",
            b"http:///x",
            b"ftp://h/",
            b"http:/h",
            b"//h/x",
            b"/..//%2e%2e/%2f",
            b"/a#b",
            b"a",
            b"h:80",
            b"/%zz%",
            b"/caf\xc3\xa9",
            b"/\xff",
            b"/{\"<>\\^`|}",
            b"/a b",
            b"/a\tb",
            b"",
            b"?x",
            b"/[x]",
            b"http://h:99999/",
            b"http://h:x/",
            b"http://a,b/",
            b"http://h\\@x/",
            b"http://h#/",
            b"/.well-known/synod/outcome",
            b"/.well-known/synod/..",
            b"/\x7f",
            b"http://%41/",
            b"http://h:/",
        ],
    );
    let space = || mostly(150, &[b" "], &[b"  ", b"\t", b"\x0c", b"\xa0", b""]);
    let version = mostly(
        25,
        &[
            b"HTTP/1.1",
            b"HTTP/1.1",
            b"HTTP/1.1",
            b"HTTP/1.1",
            b"HTTP/1.0",
        ],
        &[
            b"HTTP/2.0",
            b"HTTP/1.2",
            b"http/1.1",
            b"HTTP/01.1",
            b"HTTP/1.10",
            b"HTTP/1",
            b"HTTP/0.9",
            b"",
            b"HTTP /1.1",
        ],
    );
    (method, space(), target, space(), version, end_of_line())
        .prop_map(|(method, a, target, b, version, end)| {
            [method, a, target, b, version, end].concat()
        })
        .boxed()
}

fn host() -> Piece {
    let host = mostly(
        9,
        &[
            b"Host: a",
            b"host:a:80",
            b"HOST:\t[::1]:8 ",
            b"Host:",
            b"Host: a.b-c",
        ],
        &[
            b"Host: a, b",
            b"Host: u@a",
            b"Host: a/b",
            b"Host: a:b",
            b"Host: a:",
            b"Host: :80",
            b"Host: \xff",
            b"Host: a b",
            b"Host: [a",
            b"Host: [::1]x",
            b"Host: a\\b",
            b"Host: a?b",
            b"Host: a#b",
            b"Host: %41",
            b"Host: a:1:2",
            b"Host: a:99999",
            b"Host: []",
            b"Host: [::1%25eth0]",
            b"Host: \"a\"",
            b"Host: a;b",
            b"X-Host: a",
            b"Host: a\r\nHost: a",
            b"Host: a\r\nhost: b",
            b"Host : a",
            b" Host: a",
            b"Host",
            b": a",
        ],
    );
    (host, end_of_line())
        .prop_map(|(host, end)| [host, end].concat())
        .boxed()
}

fn field() -> Piece {
    let known = of(&[
        b"X: y",
        b"x:",
        b"X:\t y \t",
        b"X: z",
        b"Cookie: a=b",
        b"cookie: c=d; e",
        b"X_Y: z",
        b"X: \xc3\xa9\xff",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: X, close",
        b"connection: , x-drop,,\tY",
        b"X-Drop: 1",
        b"Connection: host, content-length, transfer-encoding",
        b"Connection: cookie",
        b"TE: trailers",
        b"Trailer: Sum",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: close",
        b"Proxy-Authorization: x",
        b"Expect: 100-continue",
        b"Expect: 100-Continue",
        b"Synod-Slot: 7",
        b"Synod_Time: 8",
        b"Accept: */*, a/b;q=0",
        b"Upgrade: h2c",
        b"Via: 1.1 x",
        b"Transfer-encodin: chunked",
        b"Content-Length-X: 5",
        b"Max-Forwards: 0",
    ]);
    let odd = of(&[
        b"X: a\r\n b",
        b"X: a\r\n\tb: c",
        b"X : y",
        b"X y",
        b"X\t: y",
        b": y",
        b"X: \0",
        b"X: a\rb",
        b"X: \x0b",
        b"X: \x7f",
        b"\xc3\xa9: y",
        b"X\0: y",
        b"Connection: \xff, X",
        b"Connection: x y, close",
        b"Connection: close, keep-alive",
        b"Connection: close\r\nConnection: keep-alive",
        b"Connection: \"X\"",
        b"Connection: Upgrade\r\nUpgrade: websocket",
        b"Connection: upgrade, \xff\r\nUpgrade: websocket",
        b"Upgrade: websocket",
        b"Expect: miracles",
        b"Expect:",
        b"Expect: 100-continue\r\nExpect: miracles",
        b"Expect: 100-continue, x",
        b"Content-Length: 5",
        b"X(: y",
        b"Content-Length: 0",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"\"X\": y",
        b"Connection: synod-slot",
        b"Connection: te,TE",
        b"Content-Length:\x0c5",
    ]);
    let many = (90..130_usize)
        .prop_map(|it| b"X: y\r\n".repeat(it))
        .boxed();
    let long = (60_000..70_000_usize)
        .prop_map(|it| [b"X: ", &vec![b'x'; it][..]].concat())
        .boxed();
    let field = prop_oneof![40 => known, 6 => odd, 1 => long];
    let field = (field, end_of_line()).prop_map(|(field, end)| [field, end].concat());
    prop_oneof![100 => field, 1 => many].boxed()
}

/// Fields that say how long a body is, and a body.
fn framed() -> BoxedStrategy<(Vec<u8>, Vec<u8>)> {
    let data = prop_oneof![
        8 => of(&[b"", b"a", b"hello", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"\0\n\r\x80"]),
        1 => (99_990..100_010_usize).prop_map(|it| vec![b'x'; it]),
    ];
    let none = of(&[b""]).prop_map(|it| (it, vec![]));
    let sized = data.clone().prop_map(|body| {
        let fields = format!("Content-Length: {}\r\n", body.len());
        (fields.into_bytes(), body)
    });
    let odd_sized = (
        of(&[
            b"Content-Length: +5",
            b"Content-Length: 5, 5",
            b"Content-Length: 05",
            b"Content-Length: 0x5",
            b"Content-Length: 5 ",
            b"Content-Length: 5\r\nContent-Length: 5",
            b"Content-Length: 5\r\nContent-Length: 6",
            b"Content-Length: ",
            b"Content-Length: 1e1",
            b"Content-Length: 18446744073709551616",
            b"Content-Length: 9223372036854775807",
            b"Content-Length: -1",
            b"Content-Length : 5",
            b"Content-Length:5\r\nTransfer-Encoding: chunked",
            b"Content-Length: 5;",
            b"Content-Length: \xef\xbc\x95",
            b"Content_Length: 5",
            b"Content-Length: 18446744073709551611",
            b"Content-Length: 100001",
            b"Content-Length: 5\0",
            b"Content-Length: 0\r\nContent-Length: 5",
        ]),
        data,
    )
        .prop_map(|(field, body)| ([field, b"\r\n".to_vec()].concat(), body));
    let coding = mostly(
        6,
        &[b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED"],
        &[
            b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: chunked, chunked",
            b"Transfer-Encoding:\x0bchunked",
            b"Transfer-Encoding: \"chunked\"",
            b"Transfer-Encoding: chunked;x=y",
            b"Transfer-Encoding:\r\n chunked",
            b"Transfer_Encoding: chunked",
            b"Transfer-Encoding: chunk",
            b"Transfer-Encoding: ",
            b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding: ,chunked",
            b"Transfer-Encoding: chunked,",
            b"Transfer-Encoding:\xa0chunked",
            b"X: y\nTransfer-Encoding: chunked",
        ],
    );
    let chunked =
        (coding, chunks()).prop_map(|(field, body)| ([field, b"\r\n".to_vec()].concat(), body));
    prop_oneof![4 => none, 4 => sized, 2 => odd_sized, 5 => chunked].boxed()
}

fn chunks() -> Piece {
    let size = |length: usize| {
        prop_oneof![
            20 => select(vec![format!("{length:x}"), format!("{length:X}"), format!("0{length:x}")])
                .prop_map(String::into_bytes),
            1 => select(&["+", "-", "0x", " ", "00000000000000", "1000000000000000", "8000000000000000", "", "\t", "_", "fffffffffffffff"][..])
                .prop_map(move |it| format!("{it}{length:x}").into_bytes()),
        ]
    };
    let extension = || {
        mostly(
            8,
            &[b"", b"", b"", b";x=y", b";x=\"y;z\"", b"; x"],
            &[
                b";", b" ", b";\0", b";x=\x01", b";\xff", b" ;x", b";x\ry", b";x\n", b"x", b",",
                b";\x7f", b"\t;x",
            ],
        )
    };
    let long = (240..270_usize).prop_map(|it| [b";", &vec![b'x'; it][..]].concat());
    let extension = move || prop_oneof![60 => extension(), 1 => long.clone()];
    let behind = extension.clone();
    let chunk = of(&[
        b"a",
        b"hello",
        b"\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"0123456789abcdef",
    ])
    .prop_flat_map(move |data| {
        let length = data.len();
        let longer = [&data[..], b"x"].concat();
        let data = prop_oneof![20 => Just(data), 1 => Just(longer)];
        (
            size(length),
            extension(),
            end_of_line(),
            data,
            end_of_line(),
        )
    })
    .prop_map(|(size, extension, a, data, b)| [size, extension, a, data, b].concat());
    let last = (
        mostly(
            20,
            &[b"0", b"0", b"000"],
            &[b"", b"0x0", b"-0", b"00000000000000000"],
        ),
        behind(),
        end_of_line(),
    );
    let last = last.prop_map(|(size, extension, end)| [size, extension, end].concat());
    let trailer = mostly(
        3,
        &[b"Sum: 1", b"sum:2", b"X-T: \xff"],
        &[
            b"Content-Length: 5",
            b"Transfer-Encoding: chunked",
            b"Host: b",
            b"Connection: Sum",
            b"Synod-Slot: 1",
            b"bad",
            b" fold: 1",
            b"X : y",
            b"Expect: x",
            b"TE: x",
            b"X: \0",
            b"X: \x01",
            b"Authorization: x",
            b"Cookie: x",
        ],
    );
    let trailer = (trailer, end_of_line()).prop_map(|(field, end)| [field, end].concat());
    let trailers = prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(trailer, 1..3)];
    (
        prop::collection::vec(chunk, 0..4),
        last,
        trailers,
        end_of_line(),
    )
        .prop_map(|(chunks, last, trailers, end)| {
            [chunks.concat(), last, trailers.concat(), end].concat()
        })
        .boxed()
}
