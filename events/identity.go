package events

import "golang.org/x/sys/unix"

// identity tells a directory from another one that took its name. The inode number alone does not: some file systems use a number again at
// once (ext4), but they know when the inode was made. sysfs and debugfs do not know, but never use a number again.
type identity struct {
	major, minor uint32 // of the file system
	inode        uint64
	born         unix.StatxTimestamp // zero where the file system does not say
}

// identify finds the directory at path. What is no directory is unix.ENOTDIR.
func identify(path string) (identity, error) {
	var st unix.Statx_t
	const what = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_BTIME
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, what, &st); err != nil {
		return identity{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return identity{}, unix.ENOTDIR
	}
	id := identity{major: st.Dev_major, minor: st.Dev_minor, inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.born = st.Btime
	}
	return id, nil
}
