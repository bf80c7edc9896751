//! What the workspace looks like without some changes.
//! Owns the plan.
