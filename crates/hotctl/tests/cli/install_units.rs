//! `hotctl install-units`: which files it writes, and which command lines it refuses.
//!
//! Deliberately absent: whether the units work, see `integration-tests/tests/supervisors/units.rs`.

use std::fs;

use crate::support::run::start;

const EXEC: &str = "/opt/shop/{version}/server --port 8080";

#[test]
fn two_units_are_written_and_replaced_only_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("units");
    fs::create_dir(&directory).unwrap();
    let hotctl = |exec: &str, more: &[&str]| {
        let fixed = ["install-units", "--name", "shop", "--hotctl", "/usr/local/bin/hotctl", "--exec", exec];
        let to = ["--directory", directory.to_str().unwrap()];
        start(folder.path(), None, &[&fixed[..], &to, more].concat()).end()
    };
    let printed = hotctl(EXEC, &["--dry-run"]).code(0).stdout;
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);

    hotctl(EXEC, &[]).code(0);
    let unit = fs::read_to_string(directory.join("shop.service")).unwrap();
    let template = fs::read_to_string(directory.join("shop@.service")).unwrap();
    let path = |name| directory.join(name).display().to_string();
    let both = format!("# {}\n{unit}\n# {}\n{template}\n", path("shop.service"), path("shop@.service"));
    assert_eq!(printed, both);
    for line in [
        "ExecStart=/opt/shop/current/server --port 8080\n",
        "ExecReload=/usr/local/bin/hotctl --timeout 80 handoff -- /opt/shop/current/server --port 8080\n",
        "SyslogIdentifier=shop\n",
        "DynamicUser=yes\nUser=shop\n",
    ] {
        assert!(unit.contains(line), "{line}: {unit}");
    }
    assert!(template.contains("ExecStart=/opt/shop/%i/server --port 8080\n"), "{template}");
    assert!(!template.contains("ExecReload="), "{template}");
    assert!(!both.contains("@NAME@") && !both.contains("@EXEC@"), "{both}");

    hotctl(EXEC, &[]).code(0);
    let ran = hotctl("/opt/other", &[]).code(1);
    assert!(ran.line().ends_with("is there and says something else; --force replaces it"), "{ran:#?}");
    assert_eq!(fs::read_to_string(directory.join("shop.service")).unwrap(), unit);
    hotctl("/opt/other", &["--force", "--user", "www"]).code(0);
    let unit = fs::read_to_string(directory.join("shop.service")).unwrap();
    assert!(unit.contains("ExecStart=/opt/other\n") && unit.contains("\nUser=www\n"), "{unit}");
    assert!(!unit.contains("DynamicUser"), "{unit}");
}

#[test]
fn what_a_unit_cannot_start_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("shop", "server", "`server` is no absolute path, which units need"),
        (
            "shop",
            "/home/me/server",
            "the units do not see /home (ProtectHome=, PrivateTmp=): install /home/me/server elsewhere",
        ),
        ("shop", "/opt/a\nExecStop=/b", "a command line of a unit is one line"),
        ("shop", "", "`` is no absolute path, which units need"),
    ];
    for (name, exec, why) in cases {
        let arguments = ["install-units", "--dry-run", "--name", name, "--exec", exec];
        let ran =
            start(folder.path(), None, &[&arguments[..], &["--hotctl", "/usr/bin/hotctl"]].concat()).end();
        assert_eq!(ran.code(2).line(), format!("hotctl: install-units: {why}"));
    }
    for name in ["", "Shop", "-x", "a/b", "a@b", "shop.service", "x23456789012345678901234567890123"] {
        let arguments = ["install-units", "--dry-run", "--exec", "/opt/x", "--name", name];
        start(folder.path(), None, &arguments).end().code(2);
    }
}
