/**
 * What a node's first process does. It makes itself a root of its own (the machine's /usr read-only, all else its own),
 * so that a pod with hostPath, hostPID or hostNetwork meets a node and never the machine.
 */

/** `sh -c SCRIPT join CGROUP COMMAND...`: runs the command in this cgroup of every hierarchy. */
export const joinCgroups = [
  "cgroup=$1; shift",
  'for one in /sys/fs/cgroup/"$cgroup" /sys/fs/cgroup/*/"$cgroup"; do',
  '  if [ -d "$one" ]; then echo $$ > "$one/cgroup.procs" || exit 1; fi',
  "done",
  'exec "$@"',
].join("\n");

/** `sh -c SCRIPT MARK DIRECTORY NAME ROOT IMAGES PROGRAMS CGROUP`, in the node's network namespace and cgroups: makes the root and goes on in it. */
export const rootScript = [
  "set -e",
  "directory=$1 name=$2 root=$3 images=$4 programs=$5 cgroup=$6",
  "mount --make-rprivate /",
  'mount --bind "$root" "$root"',
  'cd "$root"',
  "mkdir -p usr proc sys dev run tmp images programs before opt var/lib var/log etc",
  "for one in bin sbin lib lib32 lib64 libx32; do",
  '  if [ -L "/$one" ]; then ln -sfn "$(readlink "/$one")" "$one"',
  '  elif [ -d "/$one" ]; then mkdir -p "$one"; mount --bind "/$one" "$one"; mount -o remount,bind,ro "$one"; fi',
  "done",
  "for one in usr etc/alternatives etc/ssl; do",
  '  [ -d "/$one" ] || continue',
  '  mkdir -p "$one"; mount --bind "/$one" "$one"; mount -o remount,bind,ro "$one"',
  "done",
  "for one in passwd group nsswitch.conf ld.so.cache protocols services ethertypes; do",
  '  if [ -e "/etc/$one" ]; then cp -f "/etc/$one" "etc/$one"; fi',
  "done",
  'mount --bind "$images" images; mount -o remount,bind,ro images',
  'mount --bind "$programs" programs; mount -o remount,bind,ro programs',
  "mount -t proc proc proc",
  "mount -t sysfs sysfs sys",
  // Its part of every hierarchy is, in its cgroup namespace, the whole.
  'if [ -d "/sys/fs/cgroup/$cgroup" ]; then',
  '  mount --bind "/sys/fs/cgroup/$cgroup" sys/fs/cgroup',
  // Version 2 wants a cgroup to have either processes or controllers for those below it.
  "  mkdir -p sys/fs/cgroup/services; echo 0 > sys/fs/cgroup/services/cgroup.procs",
  "else",
  "  mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup",
  '  for one in /sys/fs/cgroup/*/"$cgroup"; do',
  '    hierarchy=$(basename "${one%/"$cgroup"}")',
  '    [ -L "/sys/fs/cgroup/$hierarchy" ] && continue',
  '    mkdir "sys/fs/cgroup/$hierarchy"; mount --bind "$one" "sys/fs/cgroup/$hierarchy"',
  "  done",
  "fi",
  "mkdir -p sys/fs/bpf 2>/dev/null || true",
  "mount -t bpf bpf sys/fs/bpf",
  "mount --rbind /dev dev",
  "mount -t tmpfs -o mode=1777 shm dev/shm",
  "mount -t tmpfs -o mode=755 run run",
  "mount -t tmpfs -o mode=1777 tmp tmp",
  "mkdir -p run/netns run/kernel run/lock var; ln -sfn ../run var/run; ln -sfn ../run/lock var/lock",
  // The kubelet sets these, and they are the whole kernel's: it finds them as it wants them, and the kernel's stay.
  'setting() { echo "$2" > "run/kernel/$(basename "$1")"; mount --bind "run/kernel/$(basename "$1")" "proc/sys/$1"; }',
  "setting vm/overcommit_memory 1",
  "setting vm/panic_on_oom 0",
  "setting kernel/panic 10",
  "setting kernel/panic_on_oops 1",
  "setting kernel/keys/root_maxkeys 1000000",
  "setting kernel/keys/root_maxbytes 25000000",
  'hostname "$name"',
  "pivot_root . before",
  "cd /",
  "umount -l /before",
  "mount --make-rshared /",
  'exec sh -c "$(cat /etc/meltemi-node.sh)" meltemi-cluster-node "$directory" "$name"',
].join("\n");

/** The second part: the node's services, in its own root. */
export const servicesScript = [
  "export PATH=/usr/sbin:/usr/bin:/sbin:/bin",
  "rm -f /var/log/*.exits",
  'service() { log=/var/log/$1.log; shift; setsid /etc/supervise.sh "$log" "$@" </dev/null & }',
  "service containerd containerd --config /etc/containerd/config.toml",
  "until ctr version >/dev/null 2>&1; do sleep 0.2; done",
  "/etc/import-images.sh >>/var/log/images.log 2>&1",
  "service kubelet /programs/kubelet --config /etc/kubernetes/kubelet.yaml --kubeconfig /etc/kubernetes/kubelet.conf" +
    ' --root-dir /var/lib/kubelet --cert-dir /var/lib/kubelet/pki --hostname-override "$2"',
  "service kube-proxy /programs/kube-proxy --config /etc/kubernetes/kube-proxy.yaml",
  "echo up > /run/node.up",
  "while :; do sleep 3600 & wait $!; done",
].join("\n");

/** Imports every archive that this node does not have yet; several may run at once. */
export const importImagesScript = `#!/bin/sh
# usage: import-images.sh: imports what is in /images and was not
set -e
done=/var/lib/containerd/meltemi-imported
mkdir -p "$done"
exec 9>"$done/.lock"
flock 9
for archive in /images/*.tar; do
  [ -e "$archive" ] || continue
  stamp="$done/$(basename "$archive").$(stat -c '%s-%Y' "$archive")"
  [ -e "$stamp" ] && continue
  ctr -n k8s.io images import "$archive"
  : > "$stamp"
done
`;
