// SPDX-License-Identifier: GPL-2.0
/* What the driver of a PF shows in debugfs about its work: fw_counters and telemetry/. */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "qat_sim.h"

#define ENGINES 8
#define MAXSAMPLES 4

static int fw_counters_show(struct seq_file *m, void *unused)
{
	int i;

	seq_printf(m, "AE  %16s %16s\n", "Requests", "Responses");
	for (i = 0; i < ENGINES; i++)
		seq_printf(m, "%2d: %16d %16d\n", i, 100 * i, 100 * i);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(fw_counters);

/* The state needs no lock: removing a file waits for those who use it. */
static int control_show(struct seq_file *m, void *unused)
{
	struct sim_pf *s = m->private;

	seq_printf(m, "%u\n", READ_ONCE(s->telemetry));
	return 0;
}

static int control_open(struct inode *inode, struct file *file)
{
	return single_open(file, control_show, inode->i_private);
}

static ssize_t control_write(struct file *file, const char __user *text, size_t len, loff_t *pos)
{
	struct sim_pf *s = ((struct seq_file *)file->private_data)->private;
	unsigned int samples;
	int ret = kstrtouint_from_user(text, len, 10, &samples);

	if (ret)
		return ret;
	if (samples > MAXSAMPLES)
		return -EINVAL;
	WRITE_ONCE(s->telemetry, samples);
	return len;
}

static const struct file_operations control_fops = {
	.owner = THIS_MODULE,
	.open = control_open,
	.read = seq_read,
	.write = control_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static int device_data_show(struct seq_file *m, void *unused)
{
	static const char *const counters[] = {
		"sample_cnt", "pci_trans_cnt", "bw_in", "bw_out", "util_cpr0", "exec_cpr0",
	};
	struct sim_pf *s = m->private;
	unsigned int state = READ_ONCE(s->telemetry);
	int i;

	if (!state)
		return -EPERM;
	for (i = 0; i < ARRAY_SIZE(counters); i++) {
		seq_printf(m, "%-23s%20d", counters[i], i);
		if (state > 1 && i > 0)
			seq_printf(m, "%20d%20d%20d", i, i, i);
		seq_putc(m, '\n');
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(device_data);

/* sim_telemetry_add adds the files. Like the real driver, it does so when the device is up. */
void sim_telemetry_add(struct sim_pf *s)
{
	struct dentry *d;

	s->telemetry = 0;
	debugfs_create_file("fw_counters", 0400, s->dbg, s, &fw_counters_fops);
	if (s->family->gen < 4)
		return;
	d = debugfs_create_dir("telemetry", s->dbg);
	debugfs_create_file("device_data", 0444, d, s, &device_data_fops);
	debugfs_create_file("control", 0644, d, s, &control_fops);
}

void sim_telemetry_remove(struct sim_pf *s)
{
	debugfs_lookup_and_remove("telemetry", s->dbg);
	debugfs_lookup_and_remove("fw_counters", s->dbg);
}
