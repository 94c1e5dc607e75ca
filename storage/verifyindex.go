package storage

import (
	"errors"
)

// runCheck holds an index file against the records it covers: the sum over what
// it has must be the sum over what they give.
type runCheck struct {
	*indexRun
	name      string
	has, want uint64
	skipped   bool // not all of the records could be read
}

// mixEntry spreads an index entry over 64 bits, so that a sum of them tells two
// sets apart.
func mixEntry(e indexEntry) uint64 {
	return foldMul(e.hash^indexHashSeed, uint64(e.phys)^indexHashWord) + uint64(e.sec)*indexHashTail
}

// openIndex reads the index files, newest first: of two that cover the same, the
// newer one counts.
func (v *verifier) openIndex() error {
	dir := v.r.dir + "/" + indexDir
	if v.o.KeysOf == nil {
		return nil
	}
	entries, err := v.r.fs.ReadDir(LabelDir, dir)
	if err != nil && !isNotExist(err) {
		return err
	}
	identity := indexIdentity(v.r.Cluster, v.r.Group)
	for i := len(entries) - 1; i >= 0; i-- {
		number, ok := parseIndexRunName(entries[i].Name())
		if !ok {
			continue
		}
		v.IndexFiles++
		name := indexDir + "/" + entries[i].Name()
		run, err := openIndexRun(v.r.fs, v.r.dir+"/"+name, number, identity)
		if err == nil {
			err = run.verify(v.r.fs)
		}
		if err != nil {
			v.add(name, -1, "%v", err)
			continue
		}
		c := &runCheck{indexRun: run, name: name}
		for _, o := range v.index {
			c.skipped = c.skipped || run.begin < o.end && o.begin < run.end
		}
		if c.skipped {
			continue // a merge, or a cut, has replaced it
		}
		if err := v.sumRun(c); err != nil {
			v.add(name, -1, "%v", err)
			continue
		}
		v.index = append(v.index, c)
	}
	lack := spans{}.add(v.begin, min(v.r.checkpoint.index, v.Manifest.End))
	for _, c := range v.index {
		lack = lack.remove(c.begin, c.end)
	}
	for _, gap := range lack {
		v.add(indexDir, -1, "no file has the keys of the records in [%d, %d)", gap.from, gap.to)
	}
	return nil
}

func (v *verifier) sumRun(c *runCheck) error {
	scan, err := c.scan(v.r.fs, indexReadLabel)
	if err != nil {
		return err
	}
	for {
		ok, err := scan.next()
		if err != nil || !ok {
			return errors.Join(err, scan.close())
		}
		if scan.e.phys >= v.begin && scan.e.phys < v.Manifest.End {
			c.has += mixEntry(scan.e)
		}
	}
}

// keys adds a record's keys to what the index files must have.
func (v *verifier) keys(phys int64, rec []byte) {
	for _, run := range v.index {
		if phys < run.begin || phys >= run.end {
			continue
		}
		seen := map[uint64]bool{}
		for _, k := range v.o.KeysOf(rec) {
			e := indexEntry{hash: indexHash(k.Topic, k.Key), phys: phys, sec: indexSeconds(k.Time)}
			if !seen[e.hash] {
				seen[e.hash] = true
				run.want += mixEntry(e)
				v.IndexKeys++
			}
		}
		return
	}
}

func (v *verifier) closeIndex() {
	for _, run := range v.index {
		if run.has != run.want && !run.skipped {
			v.add(run.name, -1, "does not have the keys of the records in [%d, %d)", run.begin, min(run.end, v.Manifest.End))
		}
	}
}
