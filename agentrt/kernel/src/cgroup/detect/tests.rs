use super::*;

const HYBRID_ALL_SPLIT: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

fn place(layout: &Layout, controller: Controller) -> Option<(Version, &str)> {
    layout.places.get(&controller).map(|place| (place.version, place.own.to_str().unwrap()))
}

#[test]
fn hybrid_whose_v2_carries_hugetlb_alone() {
    let own = "8:pids:/\n6:freezer:/\n4:memory:/process_api/e5e8\n2:cpuacct:/\n1:cpu:/\n7:blkio:/\n0::/\n";
    let layout = Layout::from_texts(HYBRID_ALL_SPLIT, own, |_| "hugetlb\n".into());
    assert_eq!(layout.kind(), "hybrid");
    let memory = "/sys/fs/cgroup/memory/process_api/e5e8";
    assert_eq!(place(&layout, Controller::Memory), Some((Version::V1, memory)));
    assert_eq!(place(&layout, Controller::Cpu), Some((Version::V1, "/sys/fs/cgroup/cpu")));
    assert_eq!(place(&layout, Controller::Pids), Some((Version::V1, "/sys/fs/cgroup/pids")));
    assert_eq!(place(&layout, Controller::Io), Some((Version::V1, "/sys/fs/cgroup/blkio")));
    assert_eq!(place(&layout, Controller::Freezer), Some((Version::V2, "/sys/fs/cgroup/unified")));
    assert_eq!(place(&layout, Controller::Account), Some((Version::V2, "/sys/fs/cgroup/unified")));
}

#[test]
fn hybrid_whose_v2_carries_memory_and_v1_the_rest() {
    let mounts = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    let own = "3:cpu,cpuacct:/a\n2:pids:/b\n0::/c\n";
    let layout = Layout::from_texts(mounts, own, |_| "memory io\n".into());
    assert_eq!(place(&layout, Controller::Cpu), Some((Version::V1, "/sys/fs/cgroup/cpu,cpuacct/a")));
    assert_eq!(place(&layout, Controller::Pids), Some((Version::V1, "/sys/fs/cgroup/pids/b")));
    assert_eq!(place(&layout, Controller::Memory), Some((Version::V2, "/sys/fs/cgroup/unified/c")));
    assert_eq!(place(&layout, Controller::Io), Some((Version::V2, "/sys/fs/cgroup/unified/c")));
}

#[test]
fn systemd_with_v2_alone() {
    let mounts =
        "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    let own = "0::/user.slice/user-1000.slice/session-2.scope\n";
    let layout = Layout::from_texts(mounts, own, |_| "cpuset cpu io memory hugetlb pids rdma misc\n".into());
    assert_eq!(layout.kind(), "v2");
    let here = "/sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope";
    for controller in Controller::ALL {
        assert_eq!(place(&layout, controller), Some((Version::V2, here)), "{controller:?}");
    }
}

#[test]
fn v1_alone_as_on_old_distributions() {
    let mounts = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw shared:12 - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw shared:13 - cgroup cgroup rw,freezer
";
    let own = "4:cpu,cpuacct:/\n3:memory:/docker/x\n2:freezer:/\n1:name=systemd:/\n";
    let layout = Layout::from_texts(mounts, own, |_| unreachable!("no v2 is mounted"));
    assert_eq!(layout.kind(), "v1");
    assert_eq!(place(&layout, Controller::Freezer), Some((Version::V1, "/sys/fs/cgroup/freezer")));
    assert_eq!(place(&layout, Controller::Pids), None);
}

#[test]
fn inside_a_container_the_mount_starts_at_our_own_cgroup() {
    let mounts = "735 34 0:32 /docker/f00 /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n";
    let layout = Layout::from_texts(mounts, "9:memory:/docker/f00\n", |_| String::new());
    assert_eq!(place(&layout, Controller::Memory), Some((Version::V1, "/sys/fs/cgroup/memory")));
}

#[test]
fn a_cgroup_that_lies_outside_the_namespace_is_none() {
    let mounts = "735 34 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    let layout = Layout::from_texts(mounts, "0::/../other\n", |_| "memory\n".into());
    assert_eq!(layout.kind(), "none");
}

#[test]
fn no_cgroups_and_no_sense() {
    assert_eq!(Layout::from_texts("", "", |_| String::new()).kind(), "none");
    assert_eq!(Layout::from_texts("x - y\n - \n1 2 3", ":::\n::", |_| String::new()).kind(), "none");
}

#[test]
fn escaped_mount_points() {
    let mounts = "35 24 0:30 / /mnt/a\\040b rw - cgroup2 cgroup2 rw\n";
    let layout = Layout::from_texts(mounts, "0::/\n", |_| "memory\n".into());
    assert_eq!(place(&layout, Controller::Memory), Some((Version::V2, "/mnt/a b")));
}

#[test]
fn this_host_tells_what_its_kernel_lists() {
    let layout = Layout::detect();
    for (controller, place) in &layout.places {
        assert!(place.own.join("cgroup.procs").exists(), "{controller:?}: {} is no cgroup", place.own.display());
    }
}
