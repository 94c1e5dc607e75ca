//go:build race

package main

// raceEnabled: in the long form the binary under test has the race detector too.
const raceEnabled = true
