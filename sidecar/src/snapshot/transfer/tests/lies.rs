//! Damage, lies, and no room.

use super::*;

#[tokio::test]
async fn a_piece_that_is_damaged_on_its_way_is_noticed_and_costs_that_piece_only() {
    let pair = Pair::new(LARGE);
    for bad in 0..13 {
        let liar = Liar::new(&pair, move |number, mut piece| {
            if number == bad {
                let mut data = piece.data.to_vec();
                let at = data.len() / 2;
                data[at] ^= 1;
                piece.data = data.into();
            }
            Ok(piece)
        });
        let (member, _running) = pair.serve(liar).await;
        fs::remove_file(pair.part()).unwrap_or_default();
        let error = pair.fetch(&member).await.unwrap_err();
        let at = (bad * PIECE_BYTES) as u64;
        assert!(
            matches!(error, FetchError::DamagedOnItsWay { at: it } if it == at),
            "{error}"
        );
        assert_eq!(fs::metadata(pair.part()).unwrap().len(), at);
    }
    let (member, _running) = pair.serve(pair.service()).await;
    pair.fetch(&member).await.unwrap();
    pair.assert_whole();
}

#[tokio::test]
async fn a_copy_that_is_damaged_there_never_becomes_part_of_the_store() {
    let pair = Pair::new(LARGE);
    let path = pair.sender.folder().join("0000000000000009.snapshot");
    let good = fs::read(&path).unwrap();
    let length = good.len();
    for at in [0, 20, 1000, 1 << 20, 2_000_000, length - 100, length - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let (member, _running) = pair.serve(pair.service()).await;
        let error = pair.fetch(&member).await.unwrap_err();
        assert!(
            matches!(error, FetchError::DamagedThere(_)),
            "byte {at}: {error}"
        );
        assert!(pair.receiver.list().is_empty(), "byte {at}");
    }
    fs::write(&path, &good).unwrap();
    let (member, _running) = pair.serve(pair.service()).await;
    pair.fetch(&member).await.unwrap();
    pair.assert_whole();
}

#[tokio::test]
async fn a_chunk_that_is_forged_with_its_checksum_is_found_by_the_hash() {
    let pair = Pair::new(LARGE);
    let path = pair.sender.folder().join("0000000000000009.snapshot");
    let mut bytes = fs::read(&path).unwrap();
    // The first chunk of the state is behind those of the head and the tables.
    let length = |bytes: &[u8], at: usize| {
        let length = bytes[at + 8..at + 12].try_into().unwrap();
        usize::try_from(u32::from_le_bytes(length)).unwrap()
    };
    let mut at = 16;
    for _ in 0..2 {
        at += 24 + length(&bytes, at);
    }
    let end = at + 24 + length(&bytes, at);
    assert!(end - at > 1 << 20);
    bytes[at + 1000] ^= 1;
    let crc = crc32c::crc32c(&bytes[at + 4..end]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let (member, _running) = pair.serve(pair.service()).await;
    let error = pair.fetch(&member).await.unwrap_err();
    assert!(error.to_string().contains("hash"), "{error}");
    assert_eq!(pair.files(), 0);
    assert!(pair.receiver.list().is_empty());
}

#[tokio::test]
async fn a_member_that_sends_something_else_is_refused() {
    let pair = Pair::new(LARGE);
    // Another snapshot altogether, of the same size.
    let other = save(
        &testing::store(&pair.folder.path().join("other")),
        9,
        &noise(3, LARGE),
    );
    assert_eq!(other.bytes, pair.snapshot.bytes);
    let file = pair.folder.path().join("other/0000000000000009.snapshot");
    let file = Arc::new(fs::read(file).unwrap());
    let lies: [(&str, Lie); 5] = [
        (
            "another snapshot",
            Arc::new(move |_, piece| {
                let at = usize::try_from(piece.offset).unwrap();
                let part = file[at..at + piece.data.len()].to_vec();
                Ok(with_data(piece, |data| *data = part))
            }),
        ),
        (
            "a gap",
            Arc::new(|number, mut piece| {
                piece.offset += u64::from(number == 3);
                Ok(piece)
            }),
        ),
        (
            "nothing",
            Arc::new(|_, piece| Ok(with_data(piece, Vec::clear))),
        ),
        (
            "too much at the end",
            Arc::new(|number, piece| {
                Ok(if number == 12 {
                    with_data(piece, |it| it.push(0))
                } else {
                    piece
                })
            }),
        ),
        (
            "too little at the end",
            Arc::new(|number, piece| {
                Ok(if number == 12 {
                    with_data(piece, |it| it.truncate(10))
                } else {
                    piece
                })
            }),
        ),
    ];
    for (what, lie) in lies {
        let mut liar = Liar::new(&pair, |_, piece| Ok(piece));
        liar.lie = lie;
        let (member, _running) = pair.serve(liar).await;
        fs::remove_file(pair.part()).unwrap_or_default();
        let error = pair.fetch(&member).await.unwrap_err();
        let expected = match &error {
            FetchError::NotAsAsked(_) => what != "too little at the end",
            FetchError::BrokenOff { .. } => what == "too little at the end",
            _ => false,
        };
        assert!(expected, "{what}: {error}");
        assert!(pair.receiver.list().is_empty(), "{what}");
    }
    let (member, _running) = pair.serve(pair.service()).await;
    pair.fetch(&member).await.unwrap();
    pair.assert_whole();
}

#[tokio::test]
async fn a_full_disk_is_told_before_and_during_a_transfer_which_goes_on_when_there_is_room() {
    let pair = Pair::new(LARGE);
    let (member, _running) = pair.serve(pair.service()).await;
    pair.receiver.set_reserve(u64::MAX / 2);
    let error = pair.fetch(&member).await.unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
    pair.receiver.set_reserve(0);
    let receiver = pair.receiver.clone();
    let liar = Liar::new(&pair, move |number, piece| {
        if number == 6 {
            receiver.set_reserve(u64::MAX / 2);
        }
        Ok(piece)
    });
    let (filling, _other) = pair.serve(liar).await;
    let error = pair.fetch(&filling).await.unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
    assert!(pair.receiver.list().is_empty());
    pair.receiver.set_reserve(0);
    pair.fetch(&member).await.unwrap();
    pair.assert_whole();
}
