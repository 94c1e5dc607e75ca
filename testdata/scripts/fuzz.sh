#!/bin/sh
# Runs every fuzz target for a while, one after the other.
# usage: fuzz.sh TIME
# Making what is new smaller would take all the time of inputs of some KiB.
set -eu
go=${GO:-go}
for file in $(grep -rl --include='*_test.go' '^func Fuzz' .); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		echo "== $target in $(dirname "$file")"
		"$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 20x "./$(dirname "${file#./}")"
	done
done
