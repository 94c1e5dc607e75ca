#!/bin/sh
# Runs every fuzz target for a while, one after the other.
# usage: fuzz.sh TIME
set -eu
go=${GO:-go}
for file in $(grep -rl --include='*_test.go' '^func Fuzz' .); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		echo "== $target in $(dirname "$file")"
		"$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "./$(dirname "${file#./}")"
	done
done
