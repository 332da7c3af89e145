//! Folders on a real file system.

use super::*;

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ringlog-folder-{}-{name}", std::process::id()));
    fs::remove_dir_all(&path).ok();
    path
}

#[test]
fn a_foreign_folder_is_refused_and_left_alone() {
    let path = scratch("foreign");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("thesis.txt"), "years of work").unwrap();
    let refused = Folder::claim(&path, None).unwrap_err().to_string();
    assert!(refused.contains("holds files but no result"), "{refused}");
    fs::write(path.join("result.json"), "{\"schema\": \"other/1\"}").unwrap();
    assert!(Folder::claim(&path, None).is_err());
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
    fs::remove_dir_all(&path).unwrap();
}

#[test]
fn what_is_no_folder_or_cannot_be_one_is_refused_before_the_run() {
    let path = scratch("file");
    fs::write(&path, "a file").unwrap();
    assert!(Folder::claim(&path, None).is_err());
    assert!(Folder::claim(&path.join("below"), None).is_err());
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_result_of_ours_is_replaced_and_other_files_in_it_stay() {
    let path = scratch("ours");
    let folder = Folder::claim(&path, None).unwrap();
    assert!(!path.exists(), "claiming writes nothing");
    let files = |text: &str| [("result.json", text.as_bytes().to_vec())];
    folder.write(&files("{\"schema\": \"bench/1\"}")).unwrap();
    fs::write(path.join("notes.txt"), "mine").unwrap();
    let again = Folder::claim(&path, None).unwrap();
    again.write(&files("{\"schema\": \"bench/2\"}")).unwrap();
    let text = fs::read_to_string(path.join("result.json")).unwrap();
    assert!(text.contains("bench/2"), "{text}");
    assert!(path.join("notes.txt").exists());
    fs::remove_dir_all(&path).unwrap();
}

#[test]
fn results_of_one_name_and_day_stand_beside_each_other() {
    let results = scratch("results");
    let first = Folder::dated(&results, "x").unwrap();
    first.write(&[("README.md", Vec::new())]).unwrap();
    let second = Folder::dated(&results, "x").unwrap();
    assert_eq!(
        second.path,
        PathBuf::from(format!("{}-2", first.path.display()))
    );
    let left = fs::read_dir(&results).unwrap().count();
    assert_eq!(left, 1, "only the first: no stage is left behind");
    fs::remove_dir_all(&results).unwrap();
}

#[test]
fn a_name_is_one_component_of_a_path() {
    assert!(name("tutorial-x10").is_ok());
    for bad in ["", "..", "a/b", "a b", ".hidden"] {
        assert!(name(bad).is_err(), "{bad:?}");
    }
}
