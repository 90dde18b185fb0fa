//! What is shipped: units, the package in a scratch root, the static program as the first process in an empty
//! root.

use std::path::Path;
use std::time::Duration;

use crate::harness::{BALANCE, Run, needs_root};

/// The most that systemd-analyze may say: 0 is no exposure, 10 is all.
const MOST_EXPOSED: f64 = 2.0;

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn units_are_right_and_expose_little() {
    for unit in ["balance.service", "balance@.service"] {
        let path = tree().join("dist").join(unit);
        let told =
            Run::new("systemd-analyze").args(["security", "--offline=yes"]).arg(&path).finish().code(0);
        let level = told.stdout.lines().find_map(|line| line.split("exposure level for ").nth(1));
        let level: f64 = level
            .and_then(|line| line.split(": ").nth(1)?.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no level: {told}"));
        assert!(level <= MOST_EXPOSED, "{unit}: {level}");
    }
    for unit in ["balance.service", "balance@web.service", "balance@web.socket"] {
        let directory = crate::harness::Directory::new();
        // The socket belongs to a service, which has to be there. The programs are those that are there.
        for name in ["balance.service", "balance@.service", "balance@web.socket"] {
            let text = std::fs::read_to_string(tree().join("dist").join(name)).expect("a file of ours");
            let text = text.replace("/usr/bin/balance", BALANCE);
            let documented = |line: &&str| !line.starts_with("Documentation=");
            let text: Vec<&str> = text.lines().filter(documented).collect();
            directory.file(name, &(text.join("\n") + "\n"));
        }
        let told = Run::new("systemd-analyze").arg("verify").arg(directory.path().join(unit)).finish();
        let ours: Vec<&str> = told.stderr.lines().filter(|line| line.contains("balance")).collect();
        assert!(told.code == 0 && ours.is_empty(), "{unit}: {told}");
    }
}

#[test]
fn manual_pages_have_no_warnings() {
    for page in ["balance.1", "balance-file.5"] {
        let told =
            Run::new("man").args(["-l", "--warnings"]).arg(tree().join(page)).env("MANWIDTH", "80").finish();
        assert!(told.code == 0 && told.stderr.is_empty() && told.stdout.contains("balance"), "{told}");
    }
}

#[test]
fn links_of_the_pages_in_the_packages_lead_to_files() {
    let told = Run::new("python3").arg("-B").arg(tree().join("ci/package")).arg("--links").finish();
    for kind in ["deb", "generate-rpm"] {
        assert!(told.code == 0 && told.stdout.contains(&format!("{kind}: all links")), "{told}");
    }
}

#[test]
fn the_package_lives_and_dies_without_losing_a_connection() {
    if needs_root("a scratch root") {
        return;
    }
    let told = Run::new("python3")
        .arg("-B")
        .arg(tree().join("ci/package"))
        .args(["--binary", BALANCE])
        .within(Duration::from_secs(300))
        .finish();
    assert!(told.code == 0 && told.stdout.contains("purged: nothing is left"), "{told}");
}

/// The image as docs/install.md makes it, in a root of its own. `emptyDir` of Kubernetes is a directory of root to which all may write.
#[test]
fn an_image_takes_commands_however_it_is_started() {
    if needs_root("a root of its own") {
        return;
    }
    let read = |name: &str| std::fs::read_to_string(tree().join(name)).expect("a file of ours");
    let (install, recipe) = (read("docs/install.md"), read("Containerfile"));
    let mut made = install.lines().filter_map(|line| line.strip_prefix("$ install "));
    let program = made.next().expect("the program").split(' ').nth(2).expect("its place");
    let directory = format!("install {}", made.next().expect("the directory"));
    let of = |what: &str| recipe.lines().find_map(|line| line.strip_prefix(what)).expect("a line of it");
    let entry: Vec<String> = serde_json::from_str(of("ENTRYPOINT ")).expect("a list of words");
    let script = format!(
        r#"mount --make-rprivate /; ip link set lo up; mount -t tmpfs -o mode=755 none "$1"; cd "$1"
           mkdir -p -m 755 "$(dirname {program})"; {directory}; umask 022
           for file in $(ldd "$2" | grep -o '/[^ :]*'); do install -D "$file" "image$file"; done
           install -D "$2" {program}; export {environment}
           mkdir -m 777 volume; chmod 777 volume
           # The init container of docs/containers.md.
           setpriv --reuid 65534 --clear-groups mkdir -p -m 700 volume/balance
           commanded() {{ # NAME USER PORT
               inside="/usr/sbin/chroot --userspec=$2:$2 --groups= image"
               : >log # What the one before said is not read as said by this one, which may open it later.
               unshare -pf --kill-child $inside {entry} $3 127.0.0.1:9 2>log &
               until said=refused; grep no_rendezvous log >&2; do
                   if said=taken; $inside balance -c version $3 >&2; then break; fi
                   sleep 0.02
               done
               # Who has become another user does not end with its parent.
               echo "$1: $said"; first=$(tr -d ' ' </proc/$!/task/$!/children); kill -9 $first; wait $! 2>&-
           }}
           commanded root 0 8081
           commanded nobody 65534 8082
           mount --bind image image; mount -o remount,bind,ro image
           mount --bind volume image/run/balance
           commanded emptyDir 65534 8083
           umount image/run/balance; mount --bind volume/balance image/run/balance
           commanded "init container" 65534 8084"#,
        environment = of("ENV "),
        entry = entry.join(" "),
    );
    let place = crate::harness::Directory::new();
    let told = Run::new("unshare")
        .args(["-mn", "bash", "-c", &script, "bash"])
        .arg(place.path())
        .arg(BALANCE)
        .within(Duration::from_secs(120))
        .finish();
    assert_eq!(
        told.stdout, "root: taken\nnobody: taken\nemptyDir: refused\ninit container: taken\n",
        "{told}"
    );
}
