//! Photographs in every form of storage make the same batches.
//!
//! Real ones if `ALEXNET_TEST_PHOTOGRAPHS` names a tar file of them, called `n01440764_….JPEG` by their
//! class; else pictures made here.

use std::fs;
use std::path::Path;

use super::{Contents, delivery, drain, floats, folder, jpeg, tar_of, train};
use crate::data::archive::walk;
use crate::data::{Split, open};

/// (WordNet id, JPEG), sorted, two of a class.
type Photographs = Vec<(String, Vec<u8>)>;

fn photographs() -> Photographs {
    let mut found = Photographs::new();
    if let Some(path) = std::env::var_os("ALEXNET_TEST_PHOTOGRAPHS") {
        let tar = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        walk(&tar, 0..tar.len() as u64, |member| {
            let bytes = &tar[member.bytes.start as usize..member.bytes.end as usize];
            if found.len() < 12 {
                found.push((member.name[..9].to_owned(), bytes.to_vec()));
            }
            Ok(())
        })
        .expect("a good tar");
    } else {
        eprintln!("ALEXNET_TEST_PHOTOGRAPHS is not set; the test uses pictures of its own");
        let picture = |i: u16| (format!("n{i:08}"), jpeg(300 + 10 * i, 200 + 7 * i, i as u8));
        found = (0..12).map(picture).collect();
    }
    found.sort();
    found.iter().flat_map(|photograph| [photograph.clone(), photograph.clone()]).collect()
}

/// The first six batches of a training run.
fn batches(path: &Path) -> Vec<Vec<Contents>> {
    let source = open(path, Split::Train).unwrap_or_else(|error| panic!("{error}"));
    let loader = train(source, 6).spawn(delivery(&[(0, 4)], 2)).expect("a good set");
    drain(loader).expect("good images")
}

#[test]
fn photographs_make_the_same_batches_from_folders_tars_and_shards() {
    let photographs = photographs();
    assert_eq!(photographs.len(), 24);
    let root = folder(&[]);
    let at = |path: &str| root.path().join(path);
    let write = |path: &str, bytes: &[u8]| {
        let path = at(path);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a new folder");
        fs::write(path, bytes).expect("a new file");
    };
    let (mut class_tars, mut samples, mut classes) = (Vec::new(), Vec::new(), String::new());
    for (label, pair) in photographs.chunks(2).enumerate() {
        let class = &pair[0].0;
        let names = [0, 1].map(|i| format!("{class}_{i}"));
        let mut members: Vec<(String, &[u8])> = Vec::new();
        for (name, (_, bytes)) in names.iter().zip(pair) {
            write(&format!("folders/train/{class}/{name}.JPEG"), bytes);
            members.push((format!("{name}.JPEG"), bytes));
            samples.push((format!("{name}.jpg"), bytes.clone()));
            samples.push((format!("{name}.cls"), label.to_string().into_bytes()));
        }
        let members: Vec<_> = members.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        class_tars.push((format!("{class}.tar"), tar_of(&members)));
        classes += &format!("{class} name {label}\n");
    }
    let tar = |files: &[(String, Vec<u8>)]| {
        let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        tar_of(&files)
    };
    write("tars/ILSVRC2012_img_train.tar", &tar(&class_tars));
    write("shards/train-0.tar", &tar(&samples[..20]));
    write("shards/train-1.tar", &tar(&samples[20..]));
    write("shards/synset_words.txt", classes.as_bytes());

    let expected = batches(&at("folders"));
    assert_eq!(expected.len(), 6);
    assert!(floats(&expected[0][0].images).iter().any(|&value| value != 0.0));
    assert_eq!(batches(&at("tars")), expected);
    assert_eq!(batches(&at("shards")), expected);
    assert_eq!(batches(&at("shards/train-{0..1}.tar")), expected);
}
