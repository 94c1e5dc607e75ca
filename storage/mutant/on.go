//go:build mutant

package mutant

import (
	"fmt"
	"os"
	"slices"
)

var gone = os.Getenv("RAFTMQ_MUTANT")

func init() {
	if gone != "" && !slices.ContainsFunc(All, func(m Mutant) bool { return m.Name == gone }) {
		panic(fmt.Sprintf("RAFTMQ_MUTANT=%s: there is no such mutant, only %v", gone, All))
	}
}

// On says whether the safeguard of this name is taken away.
func On(name string) bool { return name == gone }
