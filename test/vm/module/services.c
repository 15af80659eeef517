// SPDX-License-Identifier: GPL-2.0
/*
 * The services that a PF is configured for. Like newer kernels, the module keeps
 * them as a set, and shows them in the order asym;sym;dc;decomp;dcc.
 */
#include <linux/bitops.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "qat_sim.h"

static const char * const words[] = { "asym", "sym", "dc", "decomp", "dcc" };
#define ASYM BIT(0)
#define SYM BIT(1)
#define DC BIT(2)
#define DECOMP BIT(3)
#define DCC BIT(4)

/* Gen4: at most two of asym, sym and dc. Gen6: at most three of these and decomp. dcc: alone. */
static bool supported(struct sim_pf *s, unsigned int set)
{
	bool gen6 = s->family->gen >= 6;

	if (set & DCC)
		return set == DCC;
	if (set & DECOMP && !gen6)
		return false;
	return set && hweight32(set) <= (gen6 ? 3 : 2);
}

int sim_services_set(struct sim_pf *s, const char *text)
{
	char copy[sizeof(s->words)], *rest = copy, *word;
	unsigned int set = 0;
	int i;

	if (strscpy(copy, text, sizeof(copy)) < 0)
		return -EINVAL;
	strim(copy);
	while ((word = strsep(&rest, ";"))) {
		i = match_string(words, ARRAY_SIZE(words), word);
		if (i < 0 || set & BIT(i))
			return -EINVAL;
		set |= BIT(i);
	}
	if (!supported(s, set))
		return -EINVAL;
	s->services = set;
	strscpy(s->words, text, sizeof(s->words));
	strim(s->words);
	return 0;
}

void sim_services_default(struct sim_pf *s)
{
	sim_services_set(s, s->idx & 1 ? "dc" : "sym;asym");
}

int sim_services_emit(struct sim_pf *s, char *page)
{
	int i, n = 0;

	if (sim_services_as_written)
		return sprintf(page, "%s\n", s->words);
	for (i = 0; i < ARRAY_SIZE(words); i++)
		if (s->services & BIT(i))
			n += sprintf(page + n, "%s%s", n ? ";" : "", words[i]);
	return n + sprintf(page + n, "\n");
}
