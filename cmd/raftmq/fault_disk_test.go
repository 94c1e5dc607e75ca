package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of a size on a directory for the time of a test.
func smallDisk(t testing.TB, dir string, size string) {
	t.Helper()
	needsWorld(t)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// ballast fills the file system of a directory, and is seen to have done so. It
// returns what frees it.
func ballast(t testing.TB, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	if err = errors.Join(err, f.Close()); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// powerDisk is a directory on an ext4 of its own, in a file, that can lose its
// power: what the file system has not written is lost, and its journal is
// replayed when it is mounted again.
type powerDisk struct {
	t          testing.TB
	image, dir string
}

const (
	ext4Shutdown       = 0x8004587d // EXT4_IOC_SHUTDOWN
	shutdownNoLogFlush = 2          // not even the journal
)

func newPowerDisk(t testing.TB, dir string, megabytes int64) *powerDisk {
	t.Helper()
	needsWorld(t)
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("no mkfs.ext4 here")
	}
	d := &powerDisk{t: t, image: dir + ".img", dir: dir}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(f.Truncate(megabytes<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", d.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	if out, err := d.mount(); err != nil {
		t.Skipf("no loop mounts here: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *powerDisk) mount() ([]byte, error) {
	return exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput()
}

// cut cuts the power of the file system: nothing is written to it any more.
func (d *powerDisk) cut() {
	d.t.Helper()
	fd, err := unix.Open(d.dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	err = unix.IoctlSetPointerInt(fd, ext4Shutdown, shutdownNoLogFlush)
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		d.t.Fatalf("cutting the power: %v", err)
	}
	if _, err := os.Create(filepath.Join(d.dir, "probe")); err == nil {
		d.t.Fatal("the file system without power takes a file")
	}
}

// restore gives the power back. Nobody may use the directory.
func (d *powerDisk) restore() {
	d.t.Helper()
	if err := unix.Unmount(d.dir, 0); err != nil {
		d.t.Fatalf("unmount: %v", err)
	}
	if out, err := d.mount(); err != nil {
		d.t.Fatalf("mount after the power was cut: %v\n%s", err, out)
	}
}
