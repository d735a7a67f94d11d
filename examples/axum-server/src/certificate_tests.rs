//! What becomes of the key and the certificate of the examples when making them fails.

use std::fs;
use std::path::Path;

use crate::certificate::config;

/// What is in the directory, in the order of the names.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn both_are_made_or_none_and_the_next_start_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name| directory.path().join(name);
    for blocked in ["cert.pem.new", "key.pem.new"] {
        // Nothing can be written there.
        fs::create_dir_all(at(blocked).join("full")).unwrap();
        let error = config(directory.path()).unwrap_err();
        assert!(format!("{error:#}").contains(&format!("writing {}", at(blocked).display())), "{error:#}");
        assert_eq!(names(directory.path()), [blocked]);
        fs::remove_dir_all(at(blocked)).unwrap();
        assert!(names(directory.path()).is_empty(), "{:?}", names(directory.path()));
    }
    config(directory.path()).unwrap();
    assert_eq!(names(directory.path()), ["cert.pem", "key.pem"]);
    let made = fs::read(at("cert.pem")).unwrap();
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(at("key.pem")).unwrap()) & 0o777, 0o600);

    // A process that was killed between the two names.
    fs::rename(at("cert.pem"), at("cert.pem.new")).unwrap();
    config(directory.path()).unwrap();
    assert_eq!(names(directory.path()), ["cert.pem", "key.pem"]);
    assert!(fs::read(at("cert.pem")).unwrap() == made);
}

#[test]
fn one_that_was_put_there_alone_is_an_error() {
    for (alone, missing) in [("cert.pem", "key"), ("key.pem", "certificate")] {
        let directory = tempfile::tempdir().unwrap();
        config(directory.path()).unwrap();
        let other = if alone == "cert.pem" { "key.pem" } else { "cert.pem" };
        fs::remove_file(directory.path().join(other)).unwrap();
        let error = config(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("{alone} has no {missing} beside it")), "{error}");
        assert_eq!(names(directory.path()), [alone]);
    }
}
