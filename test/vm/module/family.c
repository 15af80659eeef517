// SPDX-License-Identifier: GPL-2.0
/* The families of QAT devices. The drivers of 200xx, d15xx and c4xxx are out of tree. */
#include <linux/string.h>

#include "qat_sim.h"

static const struct sim_family families[] = {
	{ "dh895xcc", "dh895xcc", 0x0435, 0x0443, 32, 2 },
	{ "c6xx", "c6xx", 0x37c8, 0x37c9, 16, 2 },
	{ "c3xxx", "c3xxx", 0x19e2, 0x19e3, 16, 2 },
	{ "200xx", "200xx", 0x18ee, 0x18ef, 16, 2 },
	{ "d15xx", "d15xx", 0x6f54, 0x6f55, 16, 2 },
	{ "c4xxx", "c4xxx", 0x18a0, 0x18a1, 128, 2 },
	{ "4xxx", "4xxx", 0x4940, 0x4941, 16, 4 },
	{ "401xx", "4xxx", 0x4942, 0x4943, 16, 4 },
	{ "402xx", "4xxx", 0x4944, 0x4945, 16, 4 },
	{ "420xx", "420xx", 0x4946, 0x4947, 16, 4 },
	{ "6xxx", "6xxx", 0x4948, 0x4949, 16, 6 },
};

const struct sim_family *sim_family_at(unsigned int i)
{
	return i < ARRAY_SIZE(families) ? &families[i] : NULL;
}

const struct sim_family *sim_family_find(const char *name)
{
	const struct sim_family *f;
	unsigned int i;

	for (i = 0; (f = sim_family_at(i)); i++)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}
