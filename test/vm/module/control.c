// SPDX-License-Identifier: GPL-2.0
/*
 * Files with which tests control PF number n, in /sys/kernel/debug/qat_sim/<n>/:
 *
 *   present      0 stops the PF from responding and removes it (surprise removal), 1 adds it again
 *   hb_fail      1 makes heartbeat checks fail, so that heartbeat/status reads -1
 *   hb_timer     minimum time in ms between two heartbeat checks; before that, heartbeat/status
 *                reads -1 without a check. On a real Gen2 device this is heartbeat/config
 *   in_use       1 simulates a user in the kernel's crypto API: writes to state and sriov_numvfs
 *                fail with EBUSY
 *   in_reset     1 simulates a reset in progress, with the same effect
 *   error_event  BEGIN_RECOVERY, SUCCESSFUL_RECOVERY or FAILED_RECOVERY sends the uevent of PCI
 *                error recovery
 *   ras          three numbers set the counters in qat_ras/: correctable, nonfatal, fatal
 */
#include <linux/debugfs.h>
#include <linux/pci.h>
#include <linux/uaccess.h>

#include "qat_sim.h"

static struct dentry *root;

static int present_set(void *data, u64 v)
{
	struct sim_pf *s = data;
	struct pci_dev *pdev;

	if (!!v == s->present)
		return 0;
	if (v) {
		sim_config_reset(s);
		WRITE_ONCE(s->present, true);
		pci_lock_rescan_remove();
		pci_rescan_bus(s->bus);
		pci_unlock_rescan_remove();
		return 0;
	}
	pdev = pci_get_slot(s->bus, 0);
	WRITE_ONCE(s->present, false);	/* configuration reads return all-ones from now on */
	if (pdev) {
		pci_stop_and_remove_bus_device_locked(pdev);
		pci_dev_put(pdev);
	}
	return 0;
}

static int present_get(void *data, u64 *v)
{
	*v = ((struct sim_pf *)data)->present;
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(present_fops, present_get, present_set, "%llu\n");

/* Sends the uevent that pci_uevent_ers() of the PCI core sends, which is not exported. */
static ssize_t error_event_write(struct file *file, const char __user *buf, size_t n, loff_t *pos)
{
	static const char * const types[] = { "BEGIN_RECOVERY", "FAILED_RECOVERY", "SUCCESSFUL_RECOVERY" };
	static char * const online[] = { "DEVICE_ONLINE=0", "DEVICE_ONLINE=0", "DEVICE_ONLINE=1" };
	struct sim_pf *s = file_inode(file)->i_private;
	struct pci_dev *pdev;
	char word[32], event[48];
	char *env[] = { event, NULL, NULL };
	int i;

	if (n >= sizeof(word) || copy_from_user(word, buf, n))
		return -EINVAL;
	word[n] = '\0';
	i = sysfs_match_string(types, word);
	if (i < 0)
		return i;
	snprintf(event, sizeof(event), "ERROR_EVENT=%s", types[i]);
	env[1] = online[i];
	pdev = pci_get_slot(s->bus, 0);
	if (!pdev)
		return -ENODEV;
	kobject_uevent_env(&pdev->dev.kobj, KOBJ_CHANGE, env);
	pci_dev_put(pdev);
	return n;
}
static const struct file_operations error_event_fops = {
	.owner = THIS_MODULE, .open = simple_open, .write = error_event_write,
};

static ssize_t ras_write(struct file *file, const char __user *buf, size_t n, loff_t *pos)
{
	struct sim_pf *s = file_inode(file)->i_private;
	char text[64];
	u32 v[3];

	if (n >= sizeof(text) || copy_from_user(text, buf, n))
		return -EINVAL;
	text[n] = '\0';
	if (sscanf(text, "%u %u %u", &v[0], &v[1], &v[2]) != 3)
		return -EINVAL;
	mutex_lock(&s->lock);
	memcpy(s->ras, v, sizeof(v));
	mutex_unlock(&s->lock);
	return n;
}
static const struct file_operations ras_fops = {
	.owner = THIS_MODULE, .open = simple_open, .write = ras_write,
};

void sim_control_init(void)
{
	root = debugfs_create_dir("qat_sim", NULL);
}

void sim_control_add(struct sim_pf *s)
{
	char name[8];

	snprintf(name, sizeof(name), "%d", s->idx);
	s->ctl = debugfs_create_dir(name, root);
	debugfs_create_file_unsafe("present", 0600, s->ctl, s, &present_fops);
	debugfs_create_bool("hb_fail", 0600, s->ctl, &s->hb_fail);
	debugfs_create_u32("hb_timer", 0600, s->ctl, &s->hb_timer);
	debugfs_create_bool("in_use", 0600, s->ctl, &s->in_use);
	debugfs_create_bool("in_reset", 0600, s->ctl, &s->in_reset);
	debugfs_create_file("error_event", 0200, s->ctl, s, &error_event_fops);
	debugfs_create_file("ras", 0200, s->ctl, s, &ras_fops);
}

void sim_control_exit(void)
{
	debugfs_remove(root);
}
