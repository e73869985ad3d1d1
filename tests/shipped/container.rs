//! The image.

use std::process::Command;

/// It mounts, so only root can: one of the long ones.
#[test]
fn the_image_is_built_and_runs_without_root_shell_or_a_writable_disk() {
    super::succeeds("tests/shipped/container", &[]);
}

#[test]
fn hadolint_has_nothing_against_the_containerfile_and_finds_a_planted_mistake() {
    let lint = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let mut hadolint = Command::new("tests/.cache/tools/bin/hadolint");
        let output = hadolint.args(["--no-color"]).arg(file.path()).output();
        let output = output.expect("`hadolint` is missing: `tests/run` fetches it");
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let text = std::fs::read_to_string("deploy/container/Containerfile").unwrap();
    assert_eq!(lint(&text), (true, String::new()));
    for (right, wrong, code) in [
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ("-bookworm AS build", "-bookworm AS build\nRUN sudo true", "DL3004"),
        ("USER 65532:65532", "USER 65532:65532\nCMD [\"a\"]", "DL4003"),
        ("COPY . .", "COPY . . .", "DL3021"),
    ] {
        assert!(text.contains(right), "{right}");
        let (good, said) = lint(&text.replacen(right, wrong, 1));
        assert!(!good && said.contains(code), "{wrong}: {said}");
    }
}
