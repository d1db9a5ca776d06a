/* What the sources of the extension module `zoo_refs` share: functions that
 * lose or give away references, and look-alikes that keep their count right.
 * ../references.py says which object each one does it to. */
#ifndef ZOO_REFS_H
#define ZOO_REFS_H

#include "zoo.h"

extern PyMethodDef zoo_refs_bugs[];
extern PyMethodDef zoo_refs_objects[];
extern PyMethodDef zoo_refs_twins[];

/* Attributes of the module, each with one more reference held here. */
extern PyObject *zoo_refs_limits;   /* LIMITS: a tuple. */
extern PyObject *zoo_refs_defaults; /* DEFAULTS: a dict. */
extern PyObject *zoo_refs_error;    /* Error: a subclass of Exception. */

/* Makes the types and objects of zoo_refs_objects.c; -1 on error. */
int zoo_refs_add_objects(PyObject *module);

/* Makes the objects of zoo_refs_twins.c; -1 on error. */
int zoo_refs_add_stores(PyObject *module);

#endif
